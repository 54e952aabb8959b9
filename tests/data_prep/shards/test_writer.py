"""What the writer writes: whole, the same bytes each time, readable by stock tools."""

import json
import subprocess
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.shards import INDEX_DTYPE, clean_captions, open_corpus
from bridgetower_train.errors import DataError
from data_prep.shards.writer import Shard, write_corpus, write_index
from data_prep.source.image import prepare_jpeg


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
        write_corpus(tmp_path / str(blocks), None, [("a", b"\xff" * 512 * blocks, ["a"], {})])
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


@pytest.fixture
def shard(tmp_path):
    """A shard of images of 64 px, being written."""
    return Shard(tmp_path / "000000.tar.part", "000000.tar", "c", 64)


def test_what_cannot_be_used_is_dropped_with_a_reason(tmp_path, shard, jpeg):
    assert shard.add("a", jpeg, ["  one ", "", "two", "one", " \n"], {}) == ""
    assert shard.add("b", jpeg, ["", " \t\u3000"], {}) == "no caption"
    assert shard.add("c", jpeg, ["x" * (20 << 20)], {}) == "caption member over 1 MiB"
    assert shard.add("d", jpeg, [str(number) for number in range(70_000)], {}) == "caption member over 1 MiB"
    assert shard.add("a", jpeg, ["again"], {}) == "duplicate key"
    assert shard.add("e", jpeg + bytes(64 << 20), ["large"], {}) == "image over 64 MiB"
    assert len(shard) == 1
    info, rows = shard.finish()
    assert (info.records, info.captions, rows["captions"].tolist()) == (1, 2, [2])
    with tarfile.open(tmp_path / "000000.tar.part") as tar:
        assert tar.getnames() == ["a.jpg", "a.json"]
        assert json.load(tar.extractfile("a.json"))["captions"] == ["one", "two"]


def test_meta_wins_over_the_defaults(tmp_path, jpeg):
    write_corpus(tmp_path / "c", 64, [("a", jpeg, ["a"], {"image_id": 7, "url": "https://example.org/a.jpg"})])
    expected = {"captions": ["a"], "image_id": 7, "source": "c", "url": "https://example.org/a.jpg"}
    assert open_corpus(str(tmp_path), "c").read(0).meta == expected


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "x" * 91, "ä", "a b", "a\n", "../a"])
def test_a_key_that_webdataset_would_not_read_back_is_refused(shard, jpeg, key):
    with pytest.raises(DataError, match="a key must be"):
        shard.add(key, jpeg, ["a"], {})


def test_an_image_of_another_size_is_a_bug(shard):
    with pytest.raises(AssertionError, match="32 x 32 pixels"):
        shard.add("a", prepare_jpeg(Image.new("RGB", (32, 32)), 32), ["a"], {})


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
    usable = [
        (str(i), bytes(size), captions, {}) for i, (captions, size) in enumerate(rows) if clean_captions(captions)
    ]
    if usable:
        write_corpus(root / "c", None, usable, records_per_shard)
        corpus = open_corpus(str(root), "c")
        read = [corpus.read(row) for row in range(corpus.manifest.images)]
        assert [(record.key, bytes(record.image), record.captions) for record in read] == [
            (key, image, list(clean_captions(captions))) for key, image, captions, _ in usable
        ]


@pytest.mark.parametrize("captions", [["a", "\ud800b"], [" a ", 5, None, "a", "b"]])
def test_clean_captions_are_valid_text(captions):
    cleaned = clean_captions(captions)
    assert list(cleaned) == ["a", "?b" if "\ud800b" in captions else "b"]
    assert clean_captions(cleaned) == cleaned


def test_of_equal_captions_the_first_gives_the_kind():
    captions = ["a", 5, " ", "b", "a", "c", "d"]
    kinds = ["alt", "alt", "alt", None, "synthetic", "no kind", "x" * 41]
    assert clean_captions(captions, kinds) == {"a": "alt", "b": "", "c": "", "d": ""}
    assert clean_captions(["a", "b"], ["alt"]) == {"a": "alt", "b": ""}


def test_kinds_are_stored_beside_the_captions(tmp_path, jpeg):
    """And without any, a shard and its manifest are what they were before there were kinds."""
    shard = Shard(tmp_path / "part", "000000.tar", "c", None)
    assert not shard.add("1", jpeg, ["a", " ", "b", "c"], {}, ["alt", "alt", "", "synthetic"])
    assert not shard.add("2", jpeg, ["d"], {})
    info, rows = shard.finish()
    assert info.kinds == {"alt": 1, "synthetic": 1}
    with tarfile.open(tmp_path / "part") as tar:
        stored = [json.load(tar.extractfile(f"{key}.json")) for key in "12"]
    assert [record.get("kinds") for record in stored] == [["alt", "", "synthetic"], None]
    manifest = write_index(tmp_path, rows, "c", None, "json", [info], {}, {})
    assert Manifest.from_json(manifest.to_json(), "").kinds == {"alt": 1, "synthetic": 1}
    assert manifest.format == 1
    plain = json.loads(replace(manifest, shards=[replace(info, kinds={})]).to_json())
    assert not {"caption_keys", "kinds"} & {*plain, *plain["shards"][0]}


def test_more_kinds_than_anyone_has_are_refused(tmp_path):
    info = ShardInfo("000000.tar", 1, 1, 200, "", {f"kind{i}": 1 for i in range(101)})
    with pytest.raises(DataError, match="captions of 101 kinds, such as kind0; at most 100"):
        write_index(tmp_path, np.zeros(1, INDEX_DTYPE), "c", None, "json", [info], {}, {})
    assert not list(tmp_path.iterdir())
