"""`manifest.json`: what it must be before anything of it is used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import DataError
from tests.hostile.attacks import attack


@pytest.fixture
def root(tmp_path, small_corpus) -> Path:
    """A copy of the small corpus, to be damaged."""
    shutil.copytree(small_corpus, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(root: Path, **values: Any) -> None:
    path = root / "small" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def shard(name: str, records: int = 60, **more: Any) -> dict[str, Any]:
    return {"name": name, "bytes": 1, "records": records, "captions": 180, "sha256": "", **more}


@attack(12)
@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "", ".", "..", "x\0.tar", "sub/x.tar"])
def test_a_shard_lies_beside_the_manifest(root, name):
    change(root, shards=[shard(name)])
    with pytest.raises(
        DataError, match=r"manifest.json: '.*' is not the name of a file beside it; prepare the corpus again"
    ):
        open_corpus(str(root), "small")


@attack(13)
@pytest.mark.parametrize("edge", [400_000, "x", -5, 1.5, 0, True])
def test_impossible_edges_are_refused(root, edge):
    change(root, image_size=edge)
    with pytest.raises(DataError, match=r"manifest.json: image_size.*; prepare the corpus again"):
        open_corpus(str(root), "small")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 3}, r"manifest.json: has format 3, and this version reads up to 2; upgrade"),
        ({"caption_keys": {"alt": 5}}, "manifest.json: caption_keys.alt: Input should be a valid string"),
        ({"shards": [shard("a", kinds={"alt": 181})]}, "has more captions with a kind than captions"),
        ({"shards": [shard("a", kinds={"alt": -1})]}, "has a count that is negative or too large"),
        ({"images": 61}, "its counts contradict each other"),
        ({"captions": 1}, "its counts contradict each other"),
        ({"caption_member": "pkl"}, "caption_member='pkl' is neither json nor txt"),
        ({"shards": [], "images": 0, "captions": 0}, "its counts contradict each other"),
        ({"shards": [{"name": "x.tar"}]}, "manifest.json: shards.0.bytes: Field required; prepare the corpus again"),
        ({"shards": 5}, "manifest.json: shards: Input should be a valid array"),
        ({"format": None}, "manifest.json: format: Input should be a valid integer"),
        ({"images": True}, "manifest.json: images: Input should be a valid integer"),
        ({"dropped": {"x": -1}}, "has a count that is negative or too large"),
        ({"images": 10**30}, "has a count that is negative or too large"),
        ({"shards": [shard("a", records=-60), shard("b", records=120)]}, "has a count that is negative or too large"),
    ],
)
def test_a_wrong_manifest_is_refused(root, values, message):
    change(root, **values)
    with pytest.raises(DataError, match=message):
        open_corpus(str(root), "small")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000),
        *(b'{"format": ' + b"1" * 5000, b'{"format": 1e999}', b'{"format": 1, "extra": ' + b'{"x":' * 100_000),
    ],
)
def test_a_broken_manifest_is_refused(root, content):
    (root / "small" / "manifest.json").write_bytes(content)
    with pytest.raises(
        DataError, match=r"manifest.json: [^ ].*; prepare the corpus again.*bridgetower prep index root=.*/small"
    ):
        open_corpus(str(root), "small")


def test_fields_of_later_versions_are_ignored(root):
    change(root, surplus=5)
    assert open_corpus(str(root), "small").manifest.images == 60
