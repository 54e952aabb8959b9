"""Checkpoints are written while training goes on: one at a time, whole or not at all, and failures end the run."""

import signal
import time

import pytest

from bridgetower_train.weights.checkpoint import newest, step_folders
from tests.training.runs import final_weights, last_step, metric_lines

HOLDING = """
import os, threading, time
plain = os.fsync
def fsync(fd):
    if os.environ["HELD"] in os.readlink(f"/proc/self/fd/{fd}"):
        while not os.path.exists(os.environ["RELEASED"]):
            time.sleep(0.01)
    plain(fd)
os.fsync = fsync
"""
"""A disk that does not sync a certain checkpoint before a certain file is there."""

SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"


@pytest.fixture
def held(customised, tmp_path):
    """The environment in which one checkpoint waits for the file `released`."""
    return lambda step: customised(HOLDING, HELD=f"step-{step:08d}.tmp", RELEASED=str(tmp_path / "released"))


def steps_saved(run_dir) -> list[int]:
    return [int(folder.name[5:]) for folder in step_folders(run_dir)]


@pytest.mark.parametrize(("killed", "ranks"), [(False, 1), (True, 2)])
def test_training_goes_on_to_the_next_save_while_one_is_written(tmp_path, start, train, reference, held, killed, ranks):
    options = ["steps=80", "checkpoint.every=4"]
    run_dir = tmp_path / "run"
    job = start(run_dir, *options, ranks=ranks, env=held(12))
    assert job.wait_for_step(16)
    time.sleep(0.5)
    assert last_step(run_dir) == 16, "the next save has to wait for the one that is being written"
    assert (run_dir / "checkpoints" / "step-00000012.tmp" / "model.safetensors").exists()
    assert steps_saved(run_dir) == [4, 8], "nothing goes before the new one is whole"
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-00000008"

    if killed:
        job.kill()
        assert "resume    from step 8" in train(run_dir, *options, ranks=ranks)
    else:
        (tmp_path / "released").touch()
        job.finish()
    assert steps_saved(run_dir) == [76, 80]
    assert not list((run_dir / "checkpoints").glob("*.tmp"))
    whole = reference("steps=80", ranks=ranks)
    assert metric_lines(run_dir) == metric_lines(whole)
    assert final_weights(run_dir) == final_weights(whole)


def test_a_signal_during_a_write_ends_the_run_with_both_checkpoints_whole(tmp_path, start, held):
    job = start(tmp_path / "run", "steps=4000", "checkpoint.every=4", env=held(4))
    assert job.wait_for_step(5)
    job.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert job.process.poll() is None
    (tmp_path / "released").touch()
    assert "stopped by a signal after step" in job.finish()
    first, last = steps_saved(tmp_path / "run")
    assert first == 4
    assert last == last_step(tmp_path / "run")
    assert newest(tmp_path / "run", print) == step_folders(tmp_path / "run")[-1]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_failed_write_ends_the_run_before_the_next_save(tmp_path, start, customised, ranks):
    run_dir = tmp_path / "run"
    job = start(run_dir, "steps=4000", "checkpoint.every=200", "log_every=50", ranks=ranks, env=customised(SMALL_FILES))
    output = job.finish(1)
    assert f"cannot write {run_dir}/checkpoints/step-00000200: [Errno 27] File too large" in output
    assert f"run_dir={run_dir}" in output
    assert 200 <= last_step(run_dir) < 400, "the failure is to be raised at one of the next steps"
    assert ranks > 1 or "Traceback" not in output
    assert not list((run_dir / "checkpoints").iterdir())


def test_a_failure_of_the_last_write_is_not_lost(tmp_path, train, customised):
    output = train(tmp_path / "run", "steps=2", code=1, env=customised(SMALL_FILES))
    assert "cannot write" in output
    assert "Traceback" not in output
