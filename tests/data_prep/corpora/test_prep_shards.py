"""Tars of others as a corpus of ours."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bridgetower_train.cli import main
from bridgetower_train.data.shards import BadRecordError, Corpus, open_corpus
from bridgetower_train.errors import ConfigError
from data_prep.corpora.shards import ShardsConfig, TarParts, run
from data_prep.packed.files import named_files
from data_prep.packed.images import PlacedImages
from tests.hostile.attacks import attack
from tests.serving import of_folder, serving

ROOT = Path(__file__).parents[3]


def encoded(number: int, size: tuple[int, int] = (80, 64), kind: str = "JPEG") -> bytes:
    """An image of blocks, another one for each number."""
    rng = np.random.default_rng(number)
    blocks = Image.fromarray(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    blocks.save(out, kind)
    return out.getvalue()


def record(number: int, image: bytes | None = None, **columns: Any) -> dict[str, bytes]:
    """The members of a record as img2dataset writes them."""
    key = f"{number:09d}"
    meta = {
        "caption": f"caption {number}",
        "url": f"https://example.org/{number}",
        "key": key,
        "similarity": number / 100,
        **columns,
    }
    return {
        f"{key}.jpg": encoded(number) if image is None else image,
        f"{key}.txt": f"text {number}".encode(),
        f"{key}.json": json.dumps(meta).encode(),
    }


@pytest.fixture
def tars(tmp_path, make_tar) -> Path:
    """A folder of three tars with four records each."""
    for tar in range(3):
        members: dict[str, bytes] = {}
        for number in range(4):
            members |= record(4 * tar + number)
        make_tar(tmp_path / "theirs" / f"cc3m-{tar:04d}.tar", members)
    return tmp_path / "theirs"


def prepare(out: Path, source: object, **keys: Any) -> Corpus:
    run(ShardsConfig(**{"source": str(source), "out": str(out), "name": "ours", "size": 64, "workers": 1, **keys}))
    return open_corpus(str(out), "ours")


def records(corpus: Corpus) -> dict[str, list[str]]:
    """Key -> captions, as training reads them."""
    corpus.check_shards()
    read = [corpus.read(row) for row in range(corpus.manifest.images)]
    return {record.key: list(record.captions) for record in read}


def log(corpus: Corpus) -> list[dict[str, Any]]:
    paths = sorted(Path(corpus.folder, "log").iterdir())
    return [line for path in paths for line in pq.read_table(path).to_pylist()]


def test_a_folder_of_tars_becomes_a_corpus(tars, tmp_path):
    corpus = prepare(tmp_path, tars)
    assert records(corpus) == {f"{number:09d}": [f"caption {number}"] for number in range(12)}
    assert [shard.records for shard in corpus.manifest.shards] == [4, 4, 4]
    assert corpus.manifest.image_size == 64
    first = corpus.read(0)
    assert first.meta["url"] == "https://example.org/0"
    assert (first.meta["width"], first.meta["height"], first.meta["similarity"]) == (80, 64, 0.0)
    assert [line["location"] for line in log(corpus)][:2] == ["https://example.org/0", "https://example.org/1"]
    assert corpus.manifest.extra["about"]["note"] == "prepared from cc3m-0000.tar and 2 others"
    assert "duplicates" not in corpus.manifest.extra


def test_an_image_of_the_right_size_is_not_encoded_again(tars, tmp_path, make_tar):
    corpus = prepare(tmp_path, tars)
    assert bytes(corpus.read(5).image) == encoded(5)
    turned = Image.open(io.BytesIO(encoded(1)))
    exif = turned.getexif()
    exif[0x0112] = 6
    out = io.BytesIO()
    turned.save(out, "JPEG", exif=exif)
    others = {"a.jpg": out.getvalue(), "a.txt": b"turned", "b.png": encoded(2, kind="PNG"), "b.txt": b"PNG"}
    corpus = prepare(tmp_path / "b", make_tar(tmp_path / "b.tar", others))
    sizes = [Image.open(io.BytesIO(corpus.read(row).image)) for row in range(2)]
    assert [(image.format, image.size, len(image.getexif())) for image in sizes] == [
        ("JPEG", (64, 80), 0),
        ("JPEG", (80, 64), 0),
    ]


def test_only_larger_images_are_resized(tmp_path, make_tar):
    sizes = {1: (40, 30), 2: (30, 50), 3: (64, 64), 4: (200, 128), 5: (41, 30)}
    members: dict[str, bytes] = {}
    for number, size in sizes.items():
        members |= record(number, encoded(number, size, "PNG" if number == 5 else "JPEG"))
    corpus = prepare(tmp_path, make_tar(tmp_path / "a.tar", members), resize="larger")
    assert corpus.manifest.image_size is None
    assert corpus.manifest.extra["edges"] == {"30": 3, "64": 2}
    images = [bytes(corpus.read(row).image) for row in range(5)]
    assert images[:3] == [encoded(number, sizes[number]) for number in (1, 2, 3)]
    assert [Image.open(io.BytesIO(image)).size for image in images[3:]] == [(100, 64), (41, 30)]
    assert prepare(tmp_path / "b", make_tar(tmp_path / "b.tar", record(1)), resize="larger").manifest.image_size == 64


def test_a_second_image_is_carried_where_it_lies_right_behind_the_first(tmp_path, make_tar):
    """As in our own corpora of pairs; anything else that has its name is a member like others."""
    big = (160, 128)
    members = {
        "a.jpg": encoded(1), "a.1.jpg": encoded(2, big), "a.txt": b"two",
        "b.jpg": encoded(3), "b.txt": b"one", "b.1.jpg": encoded(4),
        "c.png": encoded(5, kind="PNG"), "c.1.jpg": encoded(6), "c.txt": b"one too",
        "d.1.jpg": encoded(7),
    }  # fmt: skip
    corpus = prepare(tmp_path, make_tar(tmp_path / "a.tar", members))
    found = [corpus.read(row) for row in range(3)]
    first, second = found[0].images(2)
    assert bytes(first) == encoded(1)
    assert Image.open(io.BytesIO(second)).size == (80, 64)
    assert found[0].meta["sha256"] == sha256(encoded(1) + encoded(2, big)).hexdigest()
    for record in found[1:]:
        with pytest.raises(BadRecordError, match="1 image instead of 2"):
            record.images(2)
    assert [(line["location"], line["state"]) for line in log(corpus)][3] == ("a.tar d.1.jpg", "no image")
    again = prepare(tmp_path / "again", tmp_path / "ours")
    assert [bytes(image) for image in again.read(0).images(2)] == [bytes(first), bytes(second)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], ["one", "two"]),
        (["txt"], ["text one"]),
        (["alt"], ["alternative"]),
        (["alt", "captions", "txt"], ["alternative", "one", "two", "text one"]),
        (["more.long"], ["long", "longer"]),
        (["text"], ["a member"]),
        (["alt", "nothing"], ["alternative"]),
    ],
)
def test_captions_from_any_key_or_member(tmp_path, make_tar, wanted, expected):
    meta = {"captions": ["one", " two", "one", 3], "alt": "alternative", "more": {"long": ["long", "longer"]}}
    members = {"a.jpg": encoded(1), "a.json": json.dumps(meta).encode(), "a.txt": b"text\none", "a.text": b"a member"}
    corpus = prepare(tmp_path, make_tar(tmp_path / "a.tar", members), captions=wanted)
    assert records(corpus) == {"a": expected}
    assert corpus.read(0).meta["alt"] == "alternative"


def test_captions_of_several_kinds(tmp_path, make_tar):
    meta = {"alt": "alternative", "blip": ["one", "two"]}
    members = {"a.jpg": encoded(1), "a.json": json.dumps(meta).encode(), "a.txt": b"text"}
    kinds = {"alt": "alt", "synthetic": "blip", "file": "txt"}
    corpus = prepare(tmp_path, make_tar(tmp_path / "a.tar", members), kinds=kinds)
    expected = ["alt", "synthetic", "synthetic", "file"]
    assert (records(corpus)["a"], corpus.read(0).kinds) == (["alternative", "one", "two", "text"], expected)
    again = prepare(tmp_path / "again", corpus.folder)  # of our own shards they are kept
    assert (records(again)["a"], again.read(0).kinds) == (["alternative", "one", "two", "text"], expected)


def test_every_record_has_a_state(tmp_path, make_tar, capsys):
    members = [
        *record(1).items(),
        ("a.jpg", encoded(50)),  # no caption
        ("b.txt", b"no image"),
        ("c.jpg", b"<html>"), ("c.txt", b"not an image"),
        ("d.jpg", encoded(51)), ("d.json", b"{"),
        ("e.jpg", encoded(52)), ("e.json", b"{"), ("e.txt", b"its json is broken, its txt is not"),
        ("f/g.h.jpg", encoded(53)), ("f/i.JPG", encoded(54)), ("f/i.txt", b"in a folder"),
        ("j.jpg", encoded(55)), ("j.jpg", encoded(56)), ("j.txt", b"twice"),
        *record(2, encoded(1), url="https://example.org/1").items(),
        ("k.jpg", encoded(57)), ("k.json", json.dumps({"caption": "odd", "sha256": {"a": 1}, "url": 3, "captions": 5}).encode()),
    ]  # fmt: skip
    corpus = prepare(tmp_path, make_tar(tmp_path / "a.tar", members))
    assert records(corpus) == {
        "000000001": ["caption 1"], "000000002": ["caption 2"], "e": ["its json is broken, its txt is not"],
        "000000-000006": ["in a folder"], "k": ["odd"], "j": ["twice"],
    }  # fmt: skip
    states = corpus.manifest.extra["states"]
    assert states == {
        "ok": 6, "no caption": 1, "no image": 2, "not an image": 1, "json cannot be read": 1, "duplicate member": 1,
    }  # fmt: skip
    assert corpus.manifest.extra["duplicates"] == {"image": 1, "url": 1}
    assert "1  with the url of an earlier one" in capsys.readouterr().out
    lines = log(corpus)
    assert ("a.tar/f/i", "ok") in [(line["location"], line["state"]) for line in lines]
    assert ("a.tar f/g.h.jpg", "no image") in [(line["location"], line["state"]) for line in lines]
    assert "f/i" in [corpus.read(row).meta.get("key") for row in range(6)]


def damaged(path: Path, how: str) -> Path:
    """The tar with the header of its 7th member broken, its end cut off, or zeros in its middle."""
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        seventh = tar.getmembers()[6]
    if how == "header":
        data[seventh.offset + 150] ^= 1
    elif how == "cut":
        del data[seventh.offset_data + 10 :]
    else:
        data[seventh.offset : seventh.offset + 1024] = bytes(1024)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("how", "ours", "theirs"), [("header", 3, 2), ("zeros", 3, 2), ("cut", 2, 1)])
def test_damage_costs_the_damaged_record_and_no_other(tars, tmp_path, how, ours, theirs):
    """As stock webdataset reads it, everything after the damage is gone, and where a header is broken without an error."""
    import webdataset

    tar = damaged(tars / "cc3m-0000.tar", how)
    corpus = prepare(tmp_path, tar)
    assert len(records(corpus)) == ours
    lost = {state: count for state, count in corpus.manifest.extra["states"].items() if state != "ok"}
    assert lost
    read, failed = 0, False
    try:
        for _ in webdataset.WebDataset(str(tar), shardshuffle=False):
            read += 1
    except (tarfile.ReadError, EOFError, OSError):
        failed = True
    assert (read, failed) == (theirs, how == "cut")


def test_a_tar_that_is_none(tars, tmp_path):
    (tars / "cc3m-0001.tar").write_bytes(b"<html>" * 100)
    (tars / "cc3m-0002.tar").write_bytes(b"")
    corpus = prepare(tmp_path, tars)
    assert corpus.manifest.extra["states"] == {"ok": 4, "not a tar": 1, "zero-byte shard": 1}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x-{000..002}.tar", ["x-000.tar", "x-001.tar", "x-002.tar"]),
        ("[x-00{0,2}.tar, 'x-001.tar']", ["x-000.tar", "x-002.tar", "x-001.tar"]),
        ("x-000.tar::x-002.tar", ["x-000.tar", "x-002.tar"]),
        (".", ["x-000.tar", "x-001.tar", "x-002.tar"]),
        ("x-*1.tar", ["x-001.tar"]),
        ("https://h/{a,b}.tar?sig=1", ["https://h/a.tar?sig=1", "https://h/b.tar?sig=1"]),
        ("https://h/download/3", ["https://h/download/3"]),
        ("pipe:cat x-{000..001}.tar", ["pipe:cat x-000.tar", "pipe:cat x-001.tar"]),
        ("s3://bucket/x.tar", ["s3://bucket/x.tar"]),
    ],
)
def test_what_users_of_webdataset_write(tmp_path, monkeypatch, source, names):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Path(f"x-{number:03d}.tar").touch()
    assert named_files(source, ".tar", True, False) == names


@attack(75)
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x.tar", "does not exist"),
        ("x{0.tar", "braces do not match"),
        ("empty", "has no .tar"),
        ("[]", "has no .tar"),
        ("pipe:cat x.tar", "runs a command; set allow_pipe=true"),
        ("[y.tar,pipe:touch evil]", "runs a command"),
        ("y.tar::pipe:touch evil", "runs a command"),
        ("nothing-of-fsspec://x/y", "cannot be listed"),
    ],
)
def test_a_source_that_names_no_tars_is_one_line(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    Path("y.tar").touch()
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        named_files(source, ".tar", False, False)
    assert not Path("evil").exists()


def test_the_command_line(tars, tmp_path, monkeypatch, capsys):
    """As it is typed in single quotes; a second time nothing is done."""
    monkeypatch.chdir(tars)
    arguments = [
        "prep",
        "shards",
        "source=cc3m-{0000..0001}.tar",
        f"out={tmp_path}",
        "name=ours",
        "size=64",
        "workers=1",
    ]
    assert main([*arguments, "keep=similarity>0.02 and width>=80"]) == 0
    assert "37.5%  not similarity>0.02" in capsys.readouterr().out
    assert len(records(open_corpus(str(tmp_path), "ours"))) == 5
    assert main([*arguments, "keep=similarity>0.02 and width>=80"]) == 0
    assert "already contains these 5 images" in capsys.readouterr().out
    assert main([*arguments, "keep=similarity>0.03"]) == 1
    assert "source keep was similarity>0.02 and width>=80 and is similarity>0.03" in capsys.readouterr().err
    assert main([*arguments[:-2], "name=x", "keep=similarity>"]) == 2


def test_commands(tars, tmp_path, capsys):
    corpus = prepare(tmp_path, f"pipe:cat {tars}/cc3m-000{{0..1}}.tar", allow_pipe=True)
    assert len(records(corpus)) == 8
    assert not list(Path(corpus.folder).rglob("*.source"))
    assert main(["prep", "shards", f"source=[{tars}/cc3m-0000.tar,pipe:exit 3]", "allow_pipe=true", f"out={tmp_path}", "name=b",
                 "size=64", "workers=1"]) == 1  # fmt: skip
    assert "1 part of the source cannot be read: pipe:exit 3: ended with exit code 3" in capsys.readouterr().err
    assert (tmp_path / "b" / "000000.tar").exists()
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_a_killed_run_decodes_nothing_twice(tars, tmp_path, monkeypatch):
    """What is killed in the second of three tars goes on there, though each tar is fetched by a command."""
    source = f"pipe:cat {tars}/cc3m-000{{0..2}}.tar"
    decoded: list[int] = []
    prepared = PlacedImages._numbered

    def numbered(self, row):
        if len(decoded) == 6:
            raise ZeroDivisionError
        decoded.append(row[0])
        return prepared(self, row)

    monkeypatch.setattr(PlacedImages, "_numbered", numbered)
    with pytest.raises(ZeroDivisionError):
        prepare(tmp_path, source, allow_pipe=True)
    assert [path.name for path in (tmp_path / "ours").glob("*.tar")] == ["000000.tar"]
    decoded.append(-1)
    corpus = prepare(tmp_path, source, allow_pipe=True)
    assert len(decoded) == 13
    assert corpus.digest == prepare(tmp_path / "straight", tars).digest


def test_a_web_server(tars, tmp_path):
    with serving(of_folder(tars)) as address:
        corpus = prepare(tmp_path, f"http://{address}/cc3m-{{0000..0003}}.tar")
    assert corpus.manifest.extra["states"] == {"ok": 12, "missing file": 1}
    assert main(["prep", "card", f"root={corpus.folder}"]) == 0
    assert "prepared from cc3m-0000.tar and 3 others" in (Path(corpus.folder) / "README.md").read_text()


def test_links_out_of_the_folder_are_not_followed(tars, tmp_path):
    """The hub's cache is made of links to blobs."""
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    for tar in sorted(tars.iterdir()):
        tar.rename(tmp_path / "hub" / "blobs" / tar.name)
        (snapshot / tar.name).symlink_to(f"../../blobs/{tar.name}")
    with pytest.raises(ConfigError, match="link out of the folder"):
        prepare(tmp_path, snapshot / "cc3m-0000.tar")
    assert len(records(prepare(tmp_path, snapshot, follow_links=True))) == 12


def test_near_duplicates_of_an_evaluation_are_left_out(tars, tmp_path, make_tar):
    pytest.importorskip("imagehash", reason="ImageHash is not installed")
    members = record(100, encoded(5, (300, 240))) | record(101, encoded(90)) | record(102, encoded(7, (240, 240)))
    held_out = prepare(tmp_path / "heldout", make_tar(tmp_path / "held.tar", members), size=96)
    corpus = prepare(tmp_path, tars, against=[held_out.folder])
    left_out = {line["key"]: line["detail"] for line in log(corpus) if line["state"] != "ok"}
    assert left_out["000000005"] == "ours/000000100"
    assert "000000000" not in left_out
    assert corpus.manifest.extra["states"]["near-duplicate of an image in against"] == len(left_out) < 4


@pytest.mark.nightly
def test_on_a_ray_cluster(tars, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    keys = (
        f"source=pipe:cat {tars}/cc3m-000{{0..2}}.tar",
        "allow_pipe=true",
        f"out={tmp_path / 'ray'}",
        "name=ours",
        "size=64",
    )
    command = [sys.executable, "-m", "bridgetower_train", "prep", "shards", *keys, "engine=ray", "workers=1"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)
    assert open_corpus(str(tmp_path / "ray"), "ours").digest == prepare(tmp_path / "local", tars).digest
    assert not list((tmp_path / "ray").rglob("*.source"))


def test_parts_travel(tars):
    """engine=ray sends each tar to a task."""
    parts = TarParts(named_files(str(tars), ".tar", False, False), False, {}, [("", "txt")])
    assert pickle.loads(pickle.dumps(parts.part(1))) == parts.part(1)
