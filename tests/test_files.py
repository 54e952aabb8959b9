"""Files that are there whole or not at all, and large ones written past the kernel's cache."""

import errno
import fcntl
import mmap
import os
from pathlib import Path

import pytest

from bridgetower_train.errors import FileError
from bridgetower_train.files import (
    atomic_write,
    open_direct,
    open_own,
    own_folder,
    recreate,
    remove_left_overs,
    write_direct,
)
from tests.hostile.attacks import attack


def test_what_is_there_stays_until_the_new_is_whole(tmp_path, monkeypatch):
    file = tmp_path / "page.html"
    atomic_write(file, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail(f"{sorted(p.name for p in tmp_path.iterdir())}"))
    with pytest.raises(pytest.fail.Exception, match=r"\['\.page\.html\.[0-9a-f]{16}\.tmp', 'page\.html'\]"):
        atomic_write(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path):
    fresh, old, foreign = (tmp_path / f".{name}.tmp" for name in ("a.0123456789abcdef", "b.0123456789abcdef", "notes"))
    for path in (fresh, old, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, 0))
    remove_left_overs(tmp_path)
    assert sorted(tmp_path.iterdir()) == [fresh, foreign]


@attack(60)
def test_a_new_file_is_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "weights").symlink_to("victim")
    with pytest.raises(FileExistsError), open_direct(tmp_path / "weights"):
        pass
    atomic_write(tmp_path / "weights", "new")
    assert ((tmp_path / "victim").read_text(), (tmp_path / "weights").read_text()) == ("precious", "new")
    (tmp_path / "weights").unlink()
    (tmp_path / "weights").symlink_to("victim")
    with recreate(tmp_path / "weights") as file:
        file.write(b"newer")
    assert ((tmp_path / "victim").read_text(), (tmp_path / "weights").read_text()) == ("precious", "newer")


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo"])
def test_a_file_that_is_extended_belongs_to_nobody_else(tmp_path, kind):
    (tmp_path / "victim").write_text("precious")
    path = tmp_path / "spool"
    {"link": path.symlink_to, "hard link": path.hardlink_to, "fifo": lambda _: os.mkfifo(path)}[kind](
        tmp_path / "victim"
    )
    with pytest.raises(FileError, match=r"/spool: .*remove it"):
        open_own(path)
    assert (tmp_path / "victim").read_text() == "precious"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "log").symlink_to("elsewhere")
    with pytest.raises(FileError, match=r"/log: is a link"):
        own_folder(tmp_path / "log")


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    atomic_write(tmp_path / "page.html", "a\ud800b 猫")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text("utf-8") == "a?b 猫"


@pytest.mark.parametrize("folder", ["here", "/dev/shm"])
@pytest.mark.parametrize("skipped", [0, 8], ids=["pages", "within a page"])
def test_whatever_the_file_system_takes_directly_all_is_written(tmp_path, folder, skipped):
    block = mmap.mmap(-1, 1 << 16)
    block[:] = os.urandom(1 << 16)
    path = (tmp_path if folder == "here" else Path(folder)) / f"direct-{os.getpid()}"
    try:
        with open_direct(path) as descriptor:
            write_direct(descriptor, memoryview(block)[skipped:])
            write_direct(descriptor, memoryview(block))
        assert path.read_bytes() == block[skipped:] + block[:]
    finally:
        path.unlink()


def test_a_file_is_written_past_the_cache(tmp_path):
    try:
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct writing")
    with open_direct(tmp_path / "x") as descriptor:
        write_direct(descriptor, memoryview(mmap.mmap(-1, 1 << 16)))
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT


def test_what_is_refused_for_another_reason_is_an_error():
    descriptor = os.eventfd(0)  # takes eight bytes
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            write_direct(descriptor, memoryview(b"abc"))
    finally:
        os.close(descriptor)
