"""Remote roots: a real HTTP server on the loopback, and memory://."""

import contextlib
import errno
import functools
import gzip
import http.server
import itertools
import multiprocessing
import os
import pickle
import re
import threading
import time
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from bridgetower_train.data import cache as cache_module
from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.errors import ConfigError, DataError, UserError
from bridgetower_train.files import sha256_file
from tests.hostile.attacks import attack

ROOMY = 1 << 30


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, counts what is asked for, and misbehaves on request."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: Counter[str] = Counter()
        self.misdeeds: list[str] = []
        """What the next requests meet: a status such as `500`; zeros (`other`); half of the file and the end (`drop`), silence
        (`stall`) or success (`cut`); bytes without `end`, or a gzip `bomb` of 200 MB."""
        self.sent = 0
        self.delay = 0.0
        self.ended = threading.Event()


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked[self.path.rpartition("/")[2]] += 1
        time.sleep(self.server.delay)
        if not self.server.misdeeds:
            return super().do_GET()
        misdeed = self.server.misdeeds.pop(0)
        if misdeed.isdigit():
            return self.send_error(int(misdeed))
        if misdeed in ("endless", "bomb"):
            return self.send_too_much(misdeed)
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) // (2 if misdeed == "cut" else 1)))
        self.end_headers()
        self.wfile.write(bytes(len(content)) if misdeed == "other" else content[: len(content) // 2])
        self.wfile.flush()
        if misdeed == "stall":
            self.server.ended.wait(600)
        return None

    def send_too_much(self, misdeed: str) -> None:
        self.send_response(200)
        if misdeed == "bomb":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            parts = [bomb()] if misdeed == "bomb" else itertools.repeat(bytes(1 << 16))
            for part in parts:
                self.wfile.write(part)
                self.server.sent += len(part)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@functools.cache
def bomb() -> bytes:
    return gzip.compress(bytes(200_000_000), 1)


@pytest.fixture
def server(small_corpus):
    with Server(small_corpus) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(cache_module, "RETRY_DELAYS", (0.01, 0.02, 0.03))


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(str(tmp_path / "cache"), ROOMY)


def contents(corpus: Corpus) -> list[tuple[str, bytes, list[str]]]:
    records = [corpus.read(row) for row in range(corpus.manifest.images)]
    return [(record.key, bytes(record.image), record.captions) for record in records]


@pytest.fixture
def expected(small_corpus) -> list[tuple[str, bytes, list[str]]]:
    return contents(open_corpus(str(small_corpus), "small"))


def kept(cache: ShardCache) -> set[str]:
    """Names of what lies in the cache, without their prefixes."""
    return {path.name.partition("-")[2] for path in cache.folder.glob("[0-9a-f]*") if path.is_file()}


def test_http_root_reads_as_the_local_one(server, cache, expected):
    corpus = open_corpus(server.url, "small", cache)
    assert set(server.asked) == {"manifest.json", "index.npy"}, "no shard is fetched before it is touched"
    assert corpus.read(0).key == "000000"
    assert kept(cache) == {"index.npy", "000000.tar"}
    assert contents(corpus) == expected
    assert contents(open_corpus(server.url + "/", "small", cache)) == expected
    assert {name: count for name, count in server.asked.items() if name != "manifest.json"} == {
        "index.npy": 1,
        "000000.tar": 1,
        "000001.tar": 1,
        "000002.tar": 1,
    }


def test_memory_root_reads_as_the_local_one(small_corpus, cache, expected):
    memory = fsspec.filesystem("memory")
    memory.put(str(small_corpus / "small"), "/root/small", recursive=True)
    try:
        corpus = open_corpus("memory://root", "small", cache)
        assert contents(corpus) == expected
        corpus.check_shards()
    finally:
        memory.rm("/root", recursive=True)


def test_a_remote_root_needs_a_cache(server):
    with pytest.raises(ConfigError, match=r"data\.cache_dir"):
        open_corpus(server.url, "small")


@pytest.mark.parametrize("misdeeds", [["500"], ["drop"], ["stall"], ["cut"], ["500", "drop", "cut"]])
def test_hiccups_are_survived(server, cache, expected, misdeeds, monkeypatch):
    corpus = open_corpus(server.url, "small", cache)
    server.misdeeds = misdeeds.copy()
    if "stall" in misdeeds:
        monkeypatch.setattr(cache_module, "STALL_SECONDS", 1.0)
    start = time.monotonic()
    assert contents(corpus) == expected
    assert time.monotonic() - start < 300, "nobody waits for a server that has gone silent"
    assert server.misdeeds == []
    assert kept(cache) == {"index.npy", "000000.tar", "000001.tar", "000002.tar"}


@pytest.mark.parametrize("misdeed", ["500", "drop", "cut"])
def test_a_lasting_failure_names_the_url(server, cache, misdeed):
    corpus = open_corpus(server.url, "small", cache)
    server.misdeeds = [misdeed] * 4
    with pytest.raises(DataError, match=rf"{server.url}/small/000000.tar: cannot be fetched, 4 tries failed: \S"):
        corpus.read(0)
    assert server.misdeeds == []
    assert kept(cache) == {"index.npy"}, "nothing half is left"
    server.misdeeds = ["500"] * 4
    with pytest.raises(DataError, match=rf"{server.url}/small/manifest.json: cannot be fetched"):
        open_corpus(server.url, "small", cache)


@attack(34)
@pytest.mark.parametrize("misdeed", ["endless", "bomb"])
def test_a_manifest_without_end_is_refused(server, cache, misdeed):
    """The lowest aiohttp refuses a bomb by itself, which counts as a failed request."""
    server.misdeeds = [misdeed] * 4
    reason = "has more than 67,108,864 bytes|cannot be fetched"
    with pytest.raises(DataError, match=rf"{server.url}/small/manifest.json: ({reason})"):
        open_corpus(server.url, "small", cache)
    assert server.sent < (100 << 20)


@attack(35)
@pytest.mark.parametrize("misdeed", ["endless", "bomb"])
def test_no_file_becomes_longer_than_its_manifest_says(server, cache, misdeed, monkeypatch):
    longest = 0

    def limited(*args):
        nonlocal longest
        for chunk in chunks(*args):
            longest = max([longest, *(path.stat().st_size for path in cache.folder.glob("*.part"))])
            yield chunk

    chunks = cache_module._chunks
    corpus = open_corpus(server.url, "small", cache)
    monkeypatch.setattr(cache_module, "_chunks", limited)
    server.misdeeds = [misdeed]
    with pytest.raises(DataError, match=r"000000.tar: has more than [\d,]+ bytes"):
        corpus.read(0)
    server.misdeeds = [misdeed]
    with pytest.raises(DataError, match=r"index.npy: has more than [\d,]+ bytes"):
        cache.fetch(f"{server.url}/small/index.npy", 10_000, "0")
    assert longest <= corpus.manifest.shards[0].bytes
    assert server.sent < (32 << 20)
    assert kept(cache) == {"index.npy"}


def test_what_does_not_exist_is_not_tried_again(server, cache):
    with pytest.raises(DataError, match=r"/smal/manifest.json: does not exist"):
        open_corpus(server.url, "smal", cache)
    assert server.asked == {"manifest.json": 1}


def test_nobody_there(cache):
    with pytest.raises(
        DataError, match=r"http://127.0.0.1:9/small/manifest.json: cannot be fetched, 4 tries failed: \S"
    ):
        open_corpus("http://127.0.0.1:9", "small", cache)


def test_a_remote_shard_that_changed_is_refused(tmp_path, make_corpus, cache):
    root = make_corpus(tmp_path / "root")
    with Server(root) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        corpus = open_corpus(server.url, "small", cache)
        data = bytearray((root / "small" / "000000.tar").read_bytes())
        data[-1] ^= 1
        (root / "small" / "000000.tar").write_bytes(data)
        with pytest.raises(DataError, match=r"000000.tar: .*SHA-256"):
            corpus.read(0)
        assert corpus.read(20).key == "000020"
        server.shutdown()


def test_a_corpus_written_anew_is_fetched_anew(tmp_path, make_corpus, cache):
    memory = fsspec.filesystem("memory")
    for records in (30, 50):
        root = make_corpus(tmp_path / str(records), records=records)
        memory.rm("/anew", recursive=True) if memory.exists("/anew") else None
        memory.put(str(root / "small"), "/anew/small", recursive=True)
        corpus = open_corpus("memory://anew", "small", cache)
        assert contents(corpus) == contents(open_corpus(str(root), "small"))
    memory.rm("/anew", recursive=True)


def test_the_least_recently_used_goes_first(server, tmp_path):
    sizes = {
        info.name: info.bytes
        for info in open_corpus(server.url, "small", ShardCache(str(tmp_path), ROOMY)).manifest.shards
    }
    room = 2 * max(sizes.values()) + 10_000
    cache = ShardCache(str(tmp_path / "small"), room)
    corpus = open_corpus(server.url, "small", cache)
    corpus.read(0)
    corpus.read(20)
    for path in cache.folder.glob("*00000?.tar"):
        os.utime(path, (1, 1) if path.name.endswith("0.tar") else (2, 2))
    open_corpus(server.url, "small", cache).read(0)  # uses shard 0 again: 1 is now the oldest
    corpus.read(40)
    assert kept(cache) == {"index.npy", "000000.tar", "000002.tar"}
    assert sum(path.stat().st_size for path in cache.folder.iterdir() if path.is_file()) <= room
    assert corpus.read(21).key == "000021", "an evicted shard that is open stays readable"
    assert server.asked["000001.tar"] == 1


def test_a_cache_smaller_than_a_shard_is_named(server, tmp_path):
    corpus = open_corpus(server.url, "small", ShardCache(str(tmp_path), 10_000))
    with pytest.raises(DataError, match=r"000000.tar: .* GB exceed data.cache_gb"):
        corpus.read(0)


def test_a_partial_file_of_a_killed_process_goes_when_room_is_needed(server, tmp_path):
    cache = ShardCache(str(tmp_path), 100_000)
    stale, fresh = (tmp_path / f"{16 * digit}-{digit}.tar.90000.part" for digit in "01")
    stale.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(stale, (1, 1))
    open_corpus(server.url, "small", cache).read(0)
    assert not stale.exists()
    assert fresh.exists()


@attack(36)
def test_files_of_others_are_never_evicted(server, tmp_path):
    cache = ShardCache(str(tmp_path), 100_000)
    others = [tmp_path / name for name in ("thesis.tex", "notes.part", "0123-photo.jpg", f"notes.{'9' * 30}.part")]
    for path in others:
        path.write_bytes(bytes(200_000))
        os.utime(path, (1, 1))
    link = tmp_path / f"{16 * 'a'}-000009.tar"
    link.symlink_to(others[0])
    open_corpus(server.url, "small", cache).read(0)
    assert all(path.stat().st_size == 200_000 for path in others)
    assert link.is_symlink()


@attack(36)
def test_a_folder_with_files_of_others_is_refused_as_cache(server, tmp_path):
    (tmp_path / "thesis.tex").write_text("my thesis")
    with pytest.raises(
        ConfigError, match=r"data.cache_dir=.*: has files that are not the cache's \(thesis.tex\); choose"
    ):
        ShardCache(str(tmp_path), ROOMY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_cache_is_closed_to_others(tmp_path):
    for name, mode in (("new", None), ("readable", 0o755)):
        if mode:
            (tmp_path / name).mkdir()
            (tmp_path / name).chmod(mode)
        ShardCache(str(tmp_path / name), ROOMY)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


@attack(37)
def test_a_cache_that_others_can_change_is_refused(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigError, match=r"data.cache_dir=.*others can write to it.*data.cache_shared=true"):
        ShardCache(str(shared), ROOMY)
    ShardCache(str(shared), ROOMY, shared=True)
    assert shared.stat().st_mode & 0o777 == 0o777
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r"data.cache_dir=.*is another user's.*data.cache_shared=true"):
        ShardCache(str(tmp_path), ROOMY)


def cached(cache: ShardCache, name: str) -> Path:
    (path,) = cache.folder.glob(f"*-{name}")
    return path


def plant(path: Path) -> None:
    """Other bytes, of the same number."""
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


@attack(37)
def test_changed_files_are_fetched_again(server, cache, expected, caplog):
    contents(open_corpus(server.url, "small", cache))
    plant(cached(cache, "000001.tar"))
    plant(cached(cache, "index.npy"))
    os.truncate(cached(cache, "000002.tar"), 1000)
    server.asked.clear()
    assert contents(open_corpus(server.url, "small", ShardCache(str(cache.folder), ROOMY))) == expected
    assert set(server.asked) == {"manifest.json", "index.npy", "000001.tar", "000002.tar"}
    assert "000001.tar: has changed since it was fetched" in caplog.text


@attack(37)
def test_links_are_not_followed(server, cache, tmp_path):
    corpus = open_corpus(server.url, "small", cache)
    info = corpus.manifest.shards[0]
    url = f"{server.url}/small/{info.name}"
    path = cache.fetch(url, info.bytes, info.sha256)
    victim = tmp_path / "victim"
    path.rename(victim)
    path.symlink_to(victim)
    path.with_name(f"{path.name}.{info.bytes}.part").symlink_to(victim)
    before = victim.read_bytes()
    assert cache.fetch(url, info.bytes, info.sha256) == path
    assert not path.is_symlink()
    assert victim.read_bytes() == before
    assert server.asked[info.name] == 2
    for lock in (cache.folder / "locks").iterdir():
        lock.unlink()
        lock.symlink_to(victim)
    path.unlink()
    with pytest.raises(UserError, match="must be a file of its own"):
        cache.fetch(url, info.bytes, info.sha256)
    assert victim.read_bytes() == before


@attack(37)
@pytest.mark.parametrize("shared", [False, True])
def test_files_of_other_users_are_used_only_in_a_shared_cache(server, tmp_path, monkeypatch, shared):
    cache = ShardCache(str(tmp_path / "cache"), ROOMY, shared)
    corpus = open_corpus(server.url, "small", cache)
    corpus.read(0)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    info = corpus.manifest.shards[0]
    cache.fetch(f"{server.url}/small/{info.name}", info.bytes, info.sha256)
    assert server.asked[info.name] == (1 if shared else 2)


def test_a_process_checks_a_file_once(server, cache, monkeypatch):
    checked = Counter()

    def sha256(descriptor: int) -> str:
        checked[os.readlink(f"/proc/self/fd/{descriptor}").rpartition("-")[2]] += 1
        return sha256_file(descriptor)

    monkeypatch.setattr(cache_module, "sha256_file", sha256)
    info = open_corpus(server.url, "small", cache).manifest.shards[0]
    file = f"{server.url}/small/{info.name}", info.bytes, info.sha256
    for _ in range(3):
        cache.fetch(*file)
    assert not checked, "what it has fetched itself it has checked then"
    other = ShardCache(str(cache.folder), ROOMY)
    for _ in range(3):
        other.fetch(*file)
    assert checked == {info.name: 1}
    os.truncate(other.fetch(*file), 1000)
    os.close(other.open(*file))
    assert other.fetch(*file).stat().st_size == info.bytes, "its size is checked each time"


def test_a_cache_that_another_process_marks_meanwhile_is_taken(tmp_path, monkeypatch):
    ShardCache(str(tmp_path), ROOMY)
    monkeypatch.setattr(Path, "is_file", lambda path: False)  # looked just before the other process marked it
    ShardCache(str(tmp_path), ROOMY)


def test_an_unmarked_cache_of_an_older_version_is_adopted(server, tmp_path, expected):
    cache = ShardCache(str(tmp_path), ROOMY)
    open_corpus(server.url, "small", cache).read(0)
    (tmp_path / ".bridgetower-cache").unlink()
    server.asked.clear()
    assert open_corpus(server.url, "small", ShardCache(str(tmp_path), ROOMY)).read(0).key
    assert not server.asked["000000.tar"]
    assert (tmp_path / ".bridgetower-cache").is_file()


def read_all(url: str, folder: str, start, result) -> None:
    start.wait()
    result.put(contents(open_corpus(url, "small", ShardCache(folder, ROOMY))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_a_host_fetch_each_file_once(server, cache, expected, method):
    context = multiprocessing.get_context(method)
    start, result = context.Event(), context.Queue()
    server.delay = 0.05
    open_corpus(
        server.url, "small", ShardCache(str(cache.folder / "other"), ROOMY)
    )  # so that the fork inherits a session
    server.asked.clear()
    processes = [
        context.Process(target=read_all, args=(server.url, str(cache.folder), start, result), daemon=True)
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    start.set()
    assert all(result.get(timeout=300) == expected for _ in processes)
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    assert {name: count for name, count in server.asked.items() if name != "manifest.json"} == {
        "index.npy": 1,
        "000000.tar": 1,
        "000001.tar": 1,
        "000002.tar": 1,
    }


def wait_for(condition) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def prefetch_and_read(corpus: Corpus, cache: ShardCache, result) -> None:
    corpus.prefetch([1, 2])
    wait_for(lambda: {"000001.tar", "000002.tar"} <= kept(cache))
    result.put(contents(corpus))


def test_a_corpus_crosses_a_fork(server, cache, expected):
    corpus = open_corpus(server.url, "small", cache)
    corpus.prefetch([0])
    corpus.read(0)
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    for _ in range(2):
        context.Process(target=prefetch_and_read, args=(corpus, cache, result), daemon=True).start()
    assert [result.get(timeout=300) for _ in range(2)] == [expected, expected]


def test_prefetch_fetches_ahead(server, cache):
    corpus = open_corpus(server.url, "small", cache)
    corpus.prefetch([2, 1])
    wait_for(lambda: {"000001.tar", "000002.tar"} <= kept(cache))
    fetched = [name for name in server.asked if name.endswith(".tar")]
    assert fetched == ["000002.tar", "000001.tar"]
    corpus.read(20)
    assert server.asked["000001.tar"] == 1


def test_prefetch_leaves_errors_to_the_reader(server, cache):
    corpus = open_corpus(server.url, "small", cache)
    server.misdeeds = ["500"] * 4
    corpus.prefetch([0, 1])
    wait_for(lambda: "000001.tar" in kept(cache))
    assert "000000.tar" not in kept(cache)
    assert corpus.read(0).key == "000000"


def test_a_local_corpus_has_nothing_to_prefetch(small_corpus):
    threads = set(threading.enumerate())
    open_corpus(str(small_corpus), "small").prefetch([0, 1, 2])
    assert set(threading.enumerate()) <= threads


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_prefetch_survives_errors_of_the_disk(server, cache, monkeypatch):
    corpus = open_corpus(server.url, "small", cache)
    cached, failures = cache._cached, [OSError(errno.ESTALE, "Stale file handle")]

    def stale_once(*args):
        if failures:
            raise failures.pop()
        return cached(*args)

    monkeypatch.setattr(cache, "_cached", stale_once)
    corpus.prefetch([0, 1])
    wait_for(lambda: "000001.tar" in kept(cache))


def test_an_outage_is_waited_out_with_one_line_a_minute(server, tmp_path, expected, monkeypatch, caplog):
    monkeypatch.setattr(cache_module, "OUTAGE_DELAY", 0.05)
    patient = ShardCache(str(tmp_path / "cache"), ROOMY, patience=3600.0)
    corpus = open_corpus(server.url, "small", pickle.loads(pickle.dumps(patient)))
    (tmp_path / "cache" / "locks" / "outage").write_bytes(bytes(17))  # left by a crash of the machine
    server.misdeeds = ["500"] * 12
    assert contents(corpus) == expected
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        rf"{server.url}/small/000000.tar: cannot be fetched for 0 min \(500.*\); it is tried for 1 h \(data.retry_hours\)",
        lines[0],
    )
    assert 1 < len(lines) <= 9


def test_an_outage_that_does_not_end_is_an_error(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache_module, "OUTAGE_DELAY", 60.0)
    corpus = open_corpus(server.url, "small", ShardCache(str(tmp_path / "cache"), ROOMY, patience=1.0))
    server.misdeeds = ["500"] * 100
    for _ in range(2):  # as two workers of a host
        with pytest.raises(DataError, match=r"000000.tar: cannot be fetched, \d+ tries failed: 500"):
            corpus.read(0)
    assert len(caplog.records) == 1
    server.misdeeds = ["500"] * 4
    with pytest.raises(DataError, match=r"manifest.json: cannot be fetched, 4 tries failed"):
        open_corpus(server.url, "small", ShardCache(str(tmp_path / "cache"), ROOMY, patience=3600.0))


@pytest.mark.parametrize("misdeed", ["401", "403", "other"])
def test_what_does_not_pass_is_not_waited_for(server, tmp_path, misdeed):
    corpus = open_corpus(server.url, "small", ShardCache(str(tmp_path / "cache"), ROOMY, patience=3600.0))
    server.misdeeds = [misdeed] * 4
    with pytest.raises(DataError, match=r"000000.tar: cannot be fetched, 4 tries failed"):
        corpus.read(0)


def test_cached_files_that_cannot_be_read_are_fetched_again(server, cache, expected, monkeypatch):
    contents(open_corpus(server.url, "small", cache))

    def broken(descriptor: int) -> str:
        os.close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    server.asked.clear()
    monkeypatch.setattr(cache_module, "sha256_file", broken)
    assert contents(open_corpus(server.url, "small", ShardCache(str(cache.folder), ROOMY))) == expected
    assert server.asked["000001.tar"] == 1
