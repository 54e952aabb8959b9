"""Reading a corpus: every record as written, whatever has changed since named, and nothing trusted unread."""

import errno
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.shards import INDEX_DTYPE, BadRecordError, Corpus, open_corpus
from bridgetower_train.errors import ConfigError, DataError, FileError, UserError
from data_prep.shards.writer import write_corpus
from tests.hostile.attacks import attack


@pytest.fixture
def root(tmp_path, small_corpus) -> Path:
    """A copy of the small corpus, to be damaged."""
    shutil.copytree(small_corpus, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory) -> Path:
    """100 shards of one record each."""
    root = tmp_path_factory.mktemp("many")
    write_corpus(root / "many", None, ((str(n), bytes([n]) * 3000, [f"text {n}"], {}) for n in range(100)), 1)
    return root


def contents(corpus: Corpus) -> list[tuple[str, bytes, list[str]]]:
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    return [(record.key, bytes(record.image), record.captions) for record in records]


def test_every_record_is_as_the_tar_has_it(small_corpus):
    expected = []
    for shard in sorted((small_corpus / "small").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar.getmembers()[::2]:
                key = member.name.partition(".")[0]
                caption_member = json.load(tar.extractfile(f"{key}.json"))
                expected.append((key, tar.extractfile(member).read(), caption_member["captions"]))
    corpus = open_corpus(str(small_corpus), "small")
    assert contents(corpus) == expected
    corpus.check_shards()
    assert contents(open_corpus(f"file://{small_corpus}/", "small")) == expected


def read_row(corpus: Corpus, row: int) -> tuple[str, list[str]]:
    record = corpus.read(row)
    return record.key, record.captions


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_corpus(small_corpus, method):
    corpus = open_corpus(str(small_corpus), "small")
    expected = [read_row(corpus, row) for row in range(60)]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(read_row, [corpus] * 60, range(60), chunksize=20)) == expected
    assert [read_row(corpus, row) for row in range(60)] == expected


def test_a_pickled_corpus_carries_no_rows(many_shards):
    corpus = open_corpus(str(many_shards), "many")
    corpus.read(0)
    assert contents(pickle.loads(pickle.dumps(corpus))) == contents(corpus)
    assert len(pickle.dumps(corpus)) < 200 * len(corpus.manifest.shards)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_open_shards_are_bounded_and_close(many_shards):
    gc.collect()  # what earlier tests have left
    before = open_descriptors()
    corpus = open_corpus(str(many_shards), "many")
    contents(corpus)
    assert before + 60 < open_descriptors() < before + 70
    del corpus
    assert open_descriptors() == before


def test_threads_may_evict_what_others_read(many_shards):
    corpus = open_corpus(str(many_shards), "many")
    rows = np.random.default_rng(0).integers(0, 100, 4000).tolist()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda row: bytes(corpus.read(row).image), rows))
    assert images == [bytes([row]) * 3000 for row in rows]


def reasons(corpus: Corpus) -> dict[int, str]:
    """{row: reason} of the records that cannot be read."""
    found = {}
    for row in range(corpus.manifest.images):
        try:
            corpus.read(row)
        except BadRecordError as error:
            found[row] = error.reason
    return found


@pytest.mark.parametrize("part", ["jpg", "json"])
def test_a_changed_byte_is_found_at_its_record(root, part):
    corpus = open_corpus(str(root), "small")
    shard = root / "small" / "000001.tar"
    data = bytearray(shard.read_bytes())
    data[int(corpus.index[f"{part}_offset"][25]) + 10] ^= 1
    shard.write_bytes(data)
    corpus.check_shards()
    assert reasons(corpus) == {25: "changed since it was indexed"}


def test_a_shard_cut_short_is_found(root):
    corpus = open_corpus(str(root), "small")
    os.truncate(root / "small" / "000002.tar", int(corpus.index["json_offset"][50]))
    assert reasons(corpus) == dict.fromkeys(range(50, 60), "shard ends before the record")
    message = r"000002.tar \([\d,]+ bytes, not [\d,]+\); .*bridgetower prep index root=.*/small"
    with pytest.raises(DataError, match=message):
        corpus.check_shards()


def test_a_missing_shard_is_found(root):
    (root / "small" / "000000.tar").unlink()
    (root / "small" / "000002.tar").write_bytes(b"")
    corpus = open_corpus(str(root), "small")
    found = reasons(corpus)
    assert found[0] == "shard cannot be opened: No such file or directory"
    assert sorted(found) == [*range(20), *range(40, 60)]
    with pytest.raises(DataError, match=r"000000.tar \(No such file or directory\); 000002.tar \(0 bytes") as error:
        corpus.check_shards()
    assert "000001" not in str(error.value)


def test_an_exchanged_shard_of_the_same_size_is_found(root):
    corpus = open_corpus(str(root), "small")
    shard = root / "small" / "000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    corpus.check_shards()
    assert reasons(corpus) == dict.fromkeys(range(20), "changed since it was indexed")


def cut(data: bytes) -> bytes:
    return data[:-1]


def grow(data: bytes) -> bytes:
    return data + bytes(INDEX_DTYPE.itemsize)


def empty(data: bytes) -> bytes:
    return b""


def text(data: bytes) -> bytes:
    return b"<!DOCTYPE html>"


@pytest.mark.parametrize("damage", [cut, grow, empty, text])
def test_an_index_of_another_length_is_refused(root, damage):
    path = root / "small" / "index.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"small/index.npy: .*bridgetower prep index root=.*/small$"):
        open_corpus(str(root), "small")


@pytest.mark.parametrize("rows", [np.zeros(60, np.int64), np.zeros(59, INDEX_DTYPE), np.zeros((60, 1), INDEX_DTYPE)])
def test_another_array_is_no_index(root, rows):
    np.save(root / "small" / "index.npy", rows)
    with pytest.raises(DataError, match="does not have the 60 rows of its manifest"):
        open_corpus(str(root), "small")


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@attack(9)
@pytest.mark.parametrize("bare", [False, True])
def test_a_pickled_index_is_not_opened(root, tmp_path, bare):
    traps = np.array([Trap(tmp_path / "trace")] * 60, dtype=object)
    if bare:
        (root / "small" / "index.npy").write_bytes(traps.dumps())
    else:
        np.save(root / "small" / "index.npy", traps, allow_pickle=True)
    (tmp_path / "trace").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"index.npy: cannot be read"):
        open_corpus(str(root), "small")
    assert not (tmp_path / "trace").exists()


@attack(11)
@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    "header",
    [b"{'descr':", b"(", b"(" * 9000, b"'" * 9000, b"1" * 9000, b"{'descr': '<U99999999999'}", b"\0", b"[]", b"{1: 2}", b"\xff",
     b"{'descr': '<i8', 'fortran_order': False, 'shape': (60, -1)}", b"{'descr': '|O', 'fortran_order': False, 'shape': (60,)}",
     b"{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999, 9999999999)}"],
)  # fmt: skip
def test_a_broken_header_of_an_index_is_one_line(root, header):
    path = root / "small" / "index.npy"
    path.write_bytes(b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(5000))
    with pytest.raises(DataError, match=r"^[^\n]*small/index.npy: [^\n]{1,500}prep index root=.*/small$"):
        open_corpus(str(root), "small")


@attack(16)
@pytest.mark.parametrize("name", ["index.npy", "manifest.json", "000001.tar"])
def test_a_fifo_is_refused_at_once(root, name):
    (root / "small" / name).unlink()
    os.mkfifo(root / "small" / name)
    with pytest.raises(UserError, match=rf"{name}: .*is not a regular file|{name} \(0 bytes, not"):
        open_corpus(str(root), "small").check_shards()
    if name.endswith(".tar"):
        with pytest.raises(FileError, match="is not a regular file"):
            open_corpus(str(root), "small").read(25)


@attack(15)
@pytest.mark.parametrize("name", ["index.npy", "manifest.json", "000001.tar"])
def test_links_out_of_a_corpus_are_followed_only_if_the_user_says_so(root, tmp_path, name):
    path = root / "small" / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        FileError, match=rf"{name}: is a link .* set follow_links=true, or in a run data.follow_links=true"
    ):
        open_corpus(str(root), "small").check_shards()
    if name.endswith(".tar"):
        with pytest.raises(FileError, match="is a link"):
            open_corpus(str(root), "small").read(25)
    corpus = pickle.loads(pickle.dumps(open_corpus(str(root), "small", follow_links=True)))
    corpus.check_shards()
    assert corpus.read(25).key == "000025"


def test_a_corpus_may_be_a_link_itself_and_have_links_inside(root, tmp_path):
    (root / "small" / "000001.tar").rename(root / "small" / "other")
    (root / "small" / "000001.tar").symlink_to("other")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "small").symlink_to(root / "small")
    corpus = open_corpus(str(tmp_path / "links"), "small")
    corpus.check_shards()
    assert corpus.read(25).key == "000025"


def test_a_missing_index_is_named(root):
    (root / "small" / "index.npy").unlink()
    with pytest.raises(DataError, match=r"index.npy: cannot be read .*No such file"):
        open_corpus(str(root), "small")


def test_a_changed_index_is_found_by_the_check(root):
    path = root / "small" / "index.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"index.npy: is not the index that its manifest describes"):
        open_corpus(str(root), "small").check_shards()


def rewrite_index(root: Path, column: str, row: int, value: int) -> Corpus:
    """The corpus with one number of its index changed, and a manifest to match."""
    folder = root / "small"
    rows = np.load(folder / "index.npy")
    rows[column][row] = value
    np.save(folder / "index.npy", rows)
    manifest = Manifest.from_json((folder / "manifest.json").read_bytes(), "")
    digest = hashlib.sha256((folder / "index.npy").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(replace(manifest, index_sha256=digest).to_json())
    return open_corpus(str(root), "small")


@attack(10)
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("json_size", (1 << 20) + 1, "caption member over 1 MiB"),
        ("json_size", 1 << 31, "caption member over 1 MiB"),
        ("jpg_size", (64 << 20) + 1, "image over 64 MiB"),
        ("jpg_offset", 1 << 40, "shard ends before the record"),
        ("json_offset", 1 << 62, "shard ends before the record"),
        ("json_offset", (1 << 64) - 1, "shard cannot be read: Python int too large to convert to C long"),
        ("jpg_offset", 0, "changed since it was indexed"),
        ("shard", 3, "the index refers to a shard that is not in the manifest"),
        ("crc", 1, "changed since it was indexed"),
    ],
)
def test_what_an_index_claims_is_not_believed(root, column, value, reason):
    assert reasons(rewrite_index(root, column, 7, value)) == {7: reason}


def test_the_digest_follows_the_records(root, small_corpus):
    digest = open_corpus(str(small_corpus), "small").digest
    assert open_corpus(str(root), "small").digest == digest
    assert rewrite_index(root, "crc", 7, 1).digest != digest


def test_what_is_not_there_is_named(root):
    with pytest.raises(ConfigError, match=r"data.root=.*/nowhere: no such folder"):
        open_corpus(str(root / "nowhere"), "small")
    with pytest.raises(ConfigError, match=r"smal: no such folder; data.root has small; did you mean 'small'\?"):
        open_corpus(str(root), "smal")
    (root / "small" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest.json: No such file.*bridgetower prep index root=.*/small"):
        open_corpus(str(root), "small")


def test_a_remote_root_needs_a_cache():
    with pytest.raises(ConfigError, match=r"data.root=s3://bucket: is remote; set data.cache_dir"):
        open_corpus("s3://bucket", "small")


def test_a_shard_that_another_host_has_replaced_is_opened_again(small_corpus, monkeypatch):
    """NFS answers ESTALE to whoever has the old one open."""
    corpus = open_corpus(str(small_corpus), "small")
    expected, plain, stale = bytes(corpus.read(0).image), os.pread, [True]

    def pread(descriptor, size, start):
        if stale and stale.pop():  # the first time
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return plain(descriptor, size, start)

    monkeypatch.setattr(os, "pread", pread)
    assert bytes(corpus.read(0).image) == expected
