"""What is written is whole, and what is kept is good: damage, disks that refuse, and folders that go."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from bridgetower_train.training.metrics import JsonLines
from bridgetower_train.weights.checkpoint import step_folders, step_of, verify
from tests.training.runs import metric_lines, train_here

EACH_STEP = ["checkpoint.every=1", "checkpoint.keep_last=2", "tensorboard=false"]


def saved(run_dir: Path) -> list[int]:
    return [step_of(folder) for folder in step_folders(run_dir)]


def test_damaged_checkpoints_are_set_aside_and_never_count_as_kept(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path, "steps=8", *EACH_STEP, "checkpoint.keep_every=6")
    assert saved(tmp_path) == [6, 7, 8]
    for folder in step_folders(tmp_path)[1:]:
        (folder / "model.safetensors").write_bytes(b"torn")
    train_here(shapes_root, tmp_path, "steps=7", *EACH_STEP)
    assert "step-00000008 is set aside as damaged-step-00000008" in capsys.readouterr().out
    assert saved(tmp_path) == [6, 7]
    assert [verify(folder) for folder in step_folders(tmp_path)] == [None, None]
    aside = {path.name for path in (tmp_path / "checkpoints").glob("damaged-*")}
    assert aside == {"damaged-step-00000008"}, "that of step 7 was written again"


def test_latest_and_best_are_right_after_a_start_too(tmp_path, shapes_root):
    """A kill may come between a checkpoint and its names."""
    keys = [*EACH_STEP, "validation.every=2", "validation.samples=8", "checkpoint.best=val_loss", "steps=2"]
    train_here(shapes_root, tmp_path, *keys)
    names = [tmp_path / "checkpoints" / name for name in ("latest", "best")]
    for left in ("step-00000001", ""):
        for name in names:
            name.write_text(left)
        train_here(shapes_root, tmp_path, *keys)
        assert [name.read_text() for name in names] == ["step-00000002"] * 2


def test_a_checkpoint_that_cannot_be_removed_is_named_and_the_run_goes_on(tmp_path, shapes_root, capsys, monkeypatch):
    def busy(path, *_, **__):
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", busy)
        train_here(shapes_root, tmp_path, "steps=5", *EACH_STEP)
    output = capsys.readouterr().out
    assert output.count("cannot be removed yet: [Errno 16]") == 3, "once for each of steps 1 to 3"
    assert saved(tmp_path) == [4, 5]
    train_here(shapes_root, tmp_path, "steps=6", *EACH_STEP)
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_run_whose_folder_was_moved_ends_and_writes_nothing_there(tmp_path, start):
    run_dir, moved = tmp_path / "run", tmp_path / "moved"
    job = start(run_dir, "steps=100000", "checkpoint.every=20")
    assert job.wait_for_step(25)
    run_dir.rename(moved)
    assert f"run_dir={run_dir}: was moved or removed" in job.finish(1)
    assert not run_dir.exists()
    assert verify(step_folders(moved)[-1]) is None


def test_what_is_logged_is_on_the_disk_before_the_checkpoint_counts(tmp_path, shapes_root, monkeypatch):
    synced, plain = [], os.fsync

    def fsync(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    train_here(shapes_root, tmp_path / "run", "steps=2", *EACH_STEP)
    counts = synced.index("checkpoints")
    assert {"metrics.jsonl", "bad_samples.jsonl", "run"} <= set(synced[synced.index("step-00000001.tmp") : counts])


def test_lines_that_are_gone_are_named_once(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path, "steps=4", *EACH_STEP)
    metrics = tmp_path / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:2]) + b"\0" * 99 + b"\xff")
    train_here(shapes_root, tmp_path, "steps=5", *EACH_STEP)
    gap = "metrics.jsonl: 2 of its 4 lines up to step 4 are gone"
    assert f"{gap}, since it was cut or damaged; the widest gap is from step 2 to 4" in capsys.readouterr().out
    train_here(shapes_root, tmp_path, "steps=6", *EACH_STEP)
    assert "are gone" not in capsys.readouterr().out
    assert [line["step"] for line in metric_lines(tmp_path)] == [1, 2, 5, 6]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ESTALE])
def test_a_disk_that_fails_on_the_way_ends_the_run_with_one_line_and_keeps_the_checkpoint(
    tmp_path, shapes_root, capsys, monkeypatch, code
):
    plain = JsonLines.write

    def write(self, record):
        if record["step"] == 3:
            raise OSError(code, os.strerror(code))
        plain(self, record)

    with monkeypatch.context() as patched:
        patched.setattr(JsonLines, "write", write)
        train_here(shapes_root, tmp_path, "steps=5", *EACH_STEP, code=1)
    error = capsys.readouterr().err
    assert error.startswith(f"error: [Errno {code}] ")
    assert error.count("\n") == 1
    assert [verify(folder) for folder in step_folders(tmp_path)] == [None, None]
    train_here(shapes_root, tmp_path, "steps=5", *EACH_STEP)
    assert [line["step"] for line in metric_lines(tmp_path)] == [1, 2, 3, 4, 5]
