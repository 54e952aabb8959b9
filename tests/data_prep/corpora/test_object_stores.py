"""Preparation from and to an object store, however it behaves: moto's S3 through s3fs."""

import json
from collections import Counter
from pathlib import Path

import pytest
from test_prep_shards import ShardsConfig, records, run, tars  # noqa: F401

from bridgetower_train.data import cache
from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.errors import ConfigError, DataError
from data_prep.shards import index
from data_prep.shards.index import IndexConfig
from tests.s3 import BUCKET, object_store


@pytest.fixture
def store(monkeypatch, tars):  # noqa: F811
    """A store with the three tars, whose failures are retried at once."""
    monkeypatch.setattr(cache, "RETRY_DELAYS", (0.0, 0.0))
    with object_store(monkeypatch) as store:
        store.put({f"theirs/{tar.name}": tar for tar in sorted(tars.iterdir())})
        store.requests.clear()
        yield store


def prepare(out: Path | str, source: str = f"s3://{BUCKET}/theirs", **keys):
    return run(ShardsConfig(**{"source": source, "out": str(out), "name": "ours", "size": 64, "workers": 1, **keys}))


def once(*faults: str):
    """Each tar meets these faults, one after the other, and then none."""
    met: Counter[str] = Counter()

    def fault(method: str, path: str) -> str:
        if method != "GET" or not path.endswith(".tar"):
            return ""
        met[path] += 1
        return faults[met[path] - 1] if met[path] <= len(faults) else ""

    return fault


@pytest.mark.parametrize("faults", [(), ("slow down", "slow down"), ("cut",), ("error", "wait", "cut")])
def test_whatever_the_store_does_the_corpus_is_the_same(store, tmp_path, tars, faults):  # noqa: F811
    store.fault = once(*faults)
    prepare(tmp_path / "remote")
    prepare(tmp_path / "local", str(tars))
    corpora = [open_corpus(str(tmp_path / where), "ours") for where in ("remote", "local")]
    assert len(records(corpora[0])) == 12
    assert corpora[0].digest == corpora[1].digest
    assert store.gets(".tar") >= 3
    assert faults or store.gets(".tar") == 3
    assert not list(tmp_path.rglob("*.source"))


def test_a_tar_that_cannot_be_had_is_had_by_the_next_run(store, tmp_path):
    store.fault = lambda method, path: "forbid" if path.endswith("0001.tar") else ""
    with pytest.raises(DataError, match=r"1 part of the source cannot be read: s3://.*0001.tar: cannot be fetched"):
        prepare(tmp_path)
    assert sorted(path.name for path in (tmp_path / "ours").glob("*.tar")) == ["000000.tar", "000002.tar"]
    store.fault = lambda method, path: ""
    store.requests.clear()
    prepare(tmp_path)
    assert store.gets(".tar") == 1
    assert len(records(open_corpus(str(tmp_path), "ours"))) == 12


def test_a_tar_that_is_not_there_is_counted(store, tmp_path):
    prepare(tmp_path, f"s3://{BUCKET}/theirs/cc3m-{{0001..0003}}.tar")
    assert open_corpus(str(tmp_path), "ours").manifest.extra["states"] == {"ok": 8, "missing file": 1}


def test_tars_are_indexed_where_they_are(store, tmp_path, tars):  # noqa: F811
    """Each is fetched once, and the index is that of the same tars in a folder."""
    (tars / "cc3m-0001.tar").write_bytes((tars / "cc3m-0001.tar").read_bytes()[:3000])
    store.put({"theirs/cc3m-0001.tar": tars / "cc3m-0001.tar"})
    store.requests.clear()
    index.run(IndexConfig(root=f"s3://{BUCKET}/theirs", scratch=str(tmp_path / "scratch")))
    assert store.gets(".tar") == 3
    assert not list((tmp_path / "scratch").iterdir())
    index.run(IndexConfig(root=str(tars)))
    remote = open_corpus(f"s3://{BUCKET}", "theirs", ShardCache(str(tmp_path / "cache"), 1 << 30))
    local = open_corpus(str(tmp_path), "theirs")
    assert remote.digest == local.digest
    assert remote.manifest == local.manifest
    images = range(local.manifest.images)
    assert [bytes(remote.read(row).image) for row in images] == [bytes(local.read(row).image) for row in images]
    store.fault = lambda method, path: "forbid" if method == "PUT" else ""
    store.requests.clear()
    with pytest.raises(DataError, match=r"dropped.jsonl cannot be written"):
        index.run(IndexConfig(root=f"s3://{BUCKET}/theirs", scratch=str(tmp_path / "scratch")))
    assert not store.gets(".tar")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"root": "s3://bucket/theirs"}, "set scratch"),
        ({"root": "https://h/theirs", "scratch": "x"}, "takes no index"),
        ({"root": "s3://bucket", "scratch": "x"}, "is a whole bucket"),
    ],
)
def test_roots_that_cannot_be_indexed(keys, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        index.run(IndexConfig(**keys))


def test_from_the_store_to_the_store_and_into_training(store, tmp_path, tars):  # noqa: F811
    """Each shard is fetched once, and read as from a folder, though the store fails in between."""
    store.fault = lambda method, path: "slow down" if method == "PUT" and next(turns) % 2 else ""
    turns = iter(range(1000))
    prepare(f"s3://{BUCKET}/data", scratch=str(tmp_path / "scratch"))
    prepare(tmp_path / "local", str(tars))
    store.requests.clear()
    store.fault = once("cut", "slow down")
    corpus = open_corpus(f"s3://{BUCKET}/data", "ours", ShardCache(str(tmp_path / "cache"), 1 << 30))
    local = open_corpus(str(tmp_path / "local"), "ours")
    assert corpus.digest == local.digest
    for row in range(12):
        assert bytes(corpus.read(row).image) == bytes(local.read(row).image)
    assert json.loads(json.dumps(corpus.read(3).meta)) == local.read(3).meta
