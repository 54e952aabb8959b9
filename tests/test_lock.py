"""A folder has one writer at a time, and a dead one lets go."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from bridgetower_train.errors import UserError
from bridgetower_train.lock import hold
from tests.hostile.attacks import attack

HOLDER = """
import os, sys, time
from pathlib import Path
from bridgetower_train.lock import hold
with hold(Path(sys.argv[1]), "run_dir"):
    if os.fork() == 0:
        time.sleep(600)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, 9)
    process.wait()


def test_another_process_is_refused_and_named(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"run_dir=.*/run: in use by process {holder.pid} on .* since 2"),
        hold(tmp_path / "run", "run_dir"),
    ):
        pass


def test_a_killed_holder_lets_go_though_its_worker_lives(tmp_path, holder):
    holder.kill()
    holder.wait()
    with hold(tmp_path / "run", "run_dir"):
        pass


def test_the_folder_is_free_after_the_block(tmp_path):
    for _ in range(2):
        with hold(tmp_path / "run", "run_dir"):
            pass
    script = "import sys; from pathlib import Path; from bridgetower_train.lock import hold"
    script += "\nwith hold(Path(sys.argv[1]), 'out'): pass"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], check=True)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with hold(tmp_path, "run_dir"):
        pass
    assert "has no locks" in caplog.text


@attack(59)
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "fifo", "folder", "other contents"])
def test_what_is_not_a_lock_is_refused_and_left_alone(tmp_path, kind):
    victim, lock = tmp_path / "victim", tmp_path / "run" / "lock"
    lock.parent.mkdir()
    if kind != "dangling link":
        victim.write_text("precious")
    if kind.endswith("hard link"):
        lock.hardlink_to(victim)
    elif kind.endswith("link"):
        lock.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.write_text("precious")
    with pytest.raises(UserError, match="/run/lock: "), hold(lock.parent, "run_dir"):
        pass
    assert victim.exists() is (kind != "dangling link")
    assert not victim.exists() or victim.read_text() == "precious"
    assert kind != "other contents" or lock.read_text() == "precious"
