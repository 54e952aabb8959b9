"""What the writer writes: whole, the same bytes each time, readable by stock tools."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.shards import clean_captions, open_corpus
from bridgetower_train.errors import DataError
from data_prep.shards.writer import ShardWriter


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_input_gives_the_same_bytes(tmp_path, small_corpus, make_corpus):
    make_corpus(tmp_path)
    assert files(tmp_path / "small") == files(small_corpus / "small")
    names = ["000000.tar", "000001.tar", "000002.tar", "index.npy", "manifest.json"]
    assert sorted(files(tmp_path / "small")) == names


def test_stock_tar_reads_it(tmp_path, small_corpus):
    tar = small_corpus / "small" / "000001.tar"
    listed = subprocess.run(["tar", "-tvf", tar], check=True, capture_output=True, text=True)
    assert listed.stderr == ""
    assert len(listed.stdout.splitlines()) == 40
    subprocess.run(["tar", "-xf", tar, "-C", tmp_path], check=True)
    record = open_corpus(str(small_corpus), "small").read(25)
    assert (tmp_path / "000025.jpg").read_bytes() == record.image
    assert json.loads((tmp_path / "000025.json").read_text())["captions"] == record.captions


def test_stock_webdataset_reads_it(small_corpus):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shards = str(small_corpus / "small" / "{000000..000002}.tar")
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    corpus = open_corpus(str(small_corpus), "small")
    assert [sample["__key__"] for sample in samples] == [corpus.read(row).key for row in range(60)]
    assert all(min(sample["jpg"].size) == 64 for sample in samples)
    assert samples[7]["json"] == corpus.read(7).meta
    assert samples[7]["json"]["captions"] == corpus.read(7).captions
    assert samples[7]["json"]["source"] == "small"


def test_every_shard_has_an_end_mark(tmp_path):
    for blocks in range(20):
        with ShardWriter(tmp_path, str(blocks), None) as writer:
            writer.add("a", b"\xff" * 512 * blocks, ["a"], {})
        data = (tmp_path / str(blocks) / "000000.tar").read_bytes()
        assert len(data) % 10240 == 0
        assert data.endswith(bytes(1024))


def test_manifest_and_index_say_what_is_there(small_corpus):
    corpus = open_corpus(str(small_corpus), "small")
    manifest = corpus.manifest
    assert (manifest.images, manifest.captions, manifest.image_size, manifest.dropped) == (60, 180, 64, {})
    assert corpus.shard_rows.tolist() == [0, 20, 40, 60]
    for info in manifest.shards:
        assert (small_corpus / "small" / info.name).stat().st_size == info.bytes
    assert [len(corpus.read(row).captions) for row in range(60)] == corpus.index["captions"].tolist()
    assert Manifest.from_json(manifest.to_json(), "somewhere") == manifest


def test_an_error_leaves_no_corpus_and_the_next_run_starts_over(tmp_path, jpeg):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "c", 64, 2) as writer:  # noqa: PT012
        for number in range(5):
            writer.add(str(number), jpeg, ["a caption"], {})
        raise KeyboardInterrupt
    assert sorted(files(tmp_path / "c")) == ["000000.tar", "000001.tar", "unfinished"]
    with ShardWriter(tmp_path, "c", 64, 2) as writer:
        writer.add("0", jpeg, ["a caption"], {})
    assert sorted(files(tmp_path / "c")) == ["000000.tar", "index.npy", "manifest.json"]


def test_a_killed_writer_leaves_no_corpus_and_the_next_run_starts_over(tmp_path, jpeg):
    script = """
import os, sys
from data_prep.shards.writer import ShardWriter
with ShardWriter(sys.argv[1], "c", None, 2) as writer:
    for number in range(3):
        writer.add(str(number), bytes(5000), ["a caption"], {})
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == -9
    assert sorted(files(tmp_path / "c")) == ["000000.tar", "000001.tar.part", "unfinished"]
    with pytest.raises(DataError, match=r"c/manifest.json: No such file.*prep index root="):
        open_corpus(str(tmp_path), "c")
    with ShardWriter(tmp_path, "c", 64, 2) as writer:
        for number in range(4):
            writer.add(str(number), jpeg, ["a caption"], {})
    assert sorted(files(tmp_path / "c")) == ["000000.tar", "000001.tar", "index.npy", "manifest.json"]


def test_it_overwrites_nothing(tmp_path, make_corpus, make_tar):
    make_corpus(tmp_path, "old", 3)
    before = files(tmp_path / "old")
    with pytest.raises(DataError, match=r"old: already holds a corpus; remove the folder, or choose another `out`"):
        ShardWriter(tmp_path, "old", 64)
    assert files(tmp_path / "old") == before
    make_tar(tmp_path / "foreign" / "000000.tar", {"a.jpg": b""})
    with pytest.raises(DataError, match=r"holds 000000.tar without a manifest.*prep index root="):
        ShardWriter(tmp_path, "foreign", 64)
    assert sorted(files(tmp_path / "foreign")) == ["000000.tar"]


def test_what_cannot_be_used_is_dropped_and_counted(tmp_path, jpeg):
    with ShardWriter(tmp_path, "c", 64, 10) as writer:
        assert writer.add("a", jpeg, ["  one ", "", "two", "one", " \n"], {})
        assert not writer.add("b", jpeg, ["", " \t\u3000"], {})
        assert not writer.add("c", jpeg, ["x" * (20 << 20)], {})
        assert not writer.add("d", jpeg, [str(number) for number in range(70_000)], {})
        assert not writer.add("a", jpeg, ["again"], {})
        assert not writer.add("e", jpeg + bytes(64 << 20), ["large"], {})
        writer.drop("404")
        writer.drop("404")
    corpus = open_corpus(str(tmp_path), "c")
    assert corpus.manifest.dropped == {
        "no caption": 1,
        "caption member over 1 MiB": 2,
        "duplicate key": 1,
        "image over 64 MiB": 1,
        "404": 2,
    }
    assert [corpus.read(row).captions for row in range(corpus.manifest.images)] == [["one", "two"]]


def test_meta_wins_over_the_defaults(tmp_path, jpeg):
    with ShardWriter(tmp_path, "c", 64) as writer:
        writer.extra["licence"] = "CC BY"
        writer.add("a", jpeg, ["a"], {"image_id": 7, "url": "https://example.org/a.jpg"})
    corpus = open_corpus(str(tmp_path), "c")
    expected = {"captions": ["a"], "image_id": 7, "source": "c", "url": "https://example.org/a.jpg"}
    assert corpus.read(0).meta == expected
    assert corpus.manifest.extra == {"licence": "CC BY"}


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "x" * 91, "ä", "a b", "a\n", "../a"])
def test_a_key_that_webdataset_would_not_read_back_is_refused(tmp_path, jpeg, key):
    with pytest.raises(DataError, match="a key is"), ShardWriter(tmp_path, "c", 64) as writer:
        writer.add(key, jpeg, ["a"], {})


def test_nothing_to_write_is_an_error(tmp_path, jpeg):
    with pytest.raises(DataError, match=r"nothing to write; dropped: \{'no caption': 1\}"):  # noqa: SIM117
        with ShardWriter(tmp_path, "c", 64) as writer:
            writer.add("a", jpeg, [], {})
    assert not (tmp_path / "c" / "manifest.json").exists()


def test_a_image_of_another_size_is_a_bug(tmp_path, jpeg):
    with pytest.raises(AssertionError), ShardWriter(tmp_path, "c", 32) as writer:
        writer.add("a", jpeg, ["a"], {})


records = st.lists(
    st.tuples(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=6), st.integers(0, 2000)
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(rows=records, records_per_shard=st.integers(1, 5))
def test_what_goes_in_comes_out(tmp_path_factory, rows, records_per_shard):
    root = tmp_path_factory.mktemp("c")
    usable = [(captions, bytes(size)) for captions, size in rows if clean_captions(captions)]
    writer = ShardWriter(root, "c", None, records_per_shard)
    if usable:
        with writer:
            kept = [writer.add(str(i), bytes(size), captions, {}) for i, (captions, size) in enumerate(rows)]
        corpus = open_corpus(str(root), "c")
        read = [corpus.read(row) for row in range(corpus.manifest.images)]
        assert [(record.captions, bytes(record.image)) for record in read] == [
            (clean_captions(captions), image) for captions, image in usable
        ]
        assert [int(record.key) for record in read] == [i for i, good in enumerate(kept) if good]


@pytest.mark.parametrize("captions", [["a", "\ud800b"], [" a ", 5, None, "a", "b"]])
def test_clean_captions_are_valid_text(captions):
    cleaned = clean_captions(captions)
    assert cleaned == ["a", "?b" if "\ud800b" in captions else "b"]
    assert clean_captions(cleaned) == cleaned
