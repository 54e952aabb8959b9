"""Runs that are killed, stopped or damaged go on as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from bridgetower_train.weights.checkpoint import newest, step_folders
from tests.training.runs import Job, final_weights, losses, metric_lines, train_here

SAVING = ["steps=200", "checkpoint.every=4", "validation.every=50", "validation.samples=16"]

REFUSING = """
import os, sys
def refuse(event, arguments):
    if event == "open" and "/checkpoints/" in str(arguments[0]):
        raise PermissionError(f"rank {os.environ['RANK']} opens {arguments[0]}")
if os.environ.get("RANK", "0") != "0":
    sys.addaudithook(refuse)
"""
"""A host that has no checkpoints, for all ranks but the first."""


def modified_since(pattern: str, folder: Path, moment: float) -> bool:
    """True where a path below `folder` that matches `pattern` has changed since `moment`."""
    try:
        return any(path.stat().st_mtime > moment for path in folder.glob(pattern))
    except FileNotFoundError:  # renamed meanwhile
        return False


def stop_while(happens: Callable[[], bool], job: Job, dice: random.Random) -> None:
    """Stop all processes of a job while something `happens`, at some moment of it."""
    family = job.family()
    while job.wait_for(happens):
        time.sleep(dice.uniform(0, 0.01))
        for process in family:
            process.suspend()
        if happens():
            return
        for process in family:
            process.resume()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "workers"),
    [(1, 3), *(pytest.param(ranks, workers, marks=pytest.mark.nightly) for ranks, workers in ((1, 0), (2, 0), (2, 3)))],
)
def test_killed_at_ten_random_moments_equals_uninterrupted(tmp_path, start, train, ranks, workers):
    """A run that is through before it can be killed ends the killing."""
    options = [*SAVING, f"data.workers={workers}"]
    train(tmp_path / "whole", *options, ranks=ranks)

    killed = tmp_path / "killed"
    dice = random.Random(ranks * 10 + workers)
    kills = while_saving = 0
    for kill in range(10):
        saved = max((int(folder.name[5:]) for folder in step_folders(killed)), default=0)
        job = start(killed, *options, ranks=ranks)
        began = time.time()
        fresh = partial(modified_since, "checkpoints/*.tmp", killed, began)
        job.wait_for(partial(modified_since, "metrics.jsonl", killed, began))
        if not job.wait_for_step(saved + dice.randint(0, 18)):
            break
        if kill % 2:
            stop_while(fresh, job, dice)
        else:
            time.sleep(dice.uniform(0, 0.1))
        job.kill()
        kills += 1
        while_saving += fresh()
    assert kills > 3
    assert while_saving, "no kill hit a checkpoint while it was being written"
    assert "resume    from step" in train(killed, *options, ranks=ranks)

    assert metric_lines(killed) == metric_lines(tmp_path / "whole")
    assert final_weights(killed) == final_weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("signum", "kubernetes", "code"),
    [(signal.SIGTERM, False, 0), (signal.SIGINT, False, 0), (signal.SIGTERM, True, 143)],
)
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, start, train, reference, signum, kubernetes, code):
    options = ["steps=80", "checkpoint.every=1000"]
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if kubernetes else {}
    job = start(tmp_path, *options, env=env)
    assert job.wait_for_step(5)
    job.process.send_signal(signum)
    assert "stopped by a signal after step" in job.finish(code)
    (folder,) = step_folders(tmp_path)
    assert 5 <= int(folder.name[5:]) < 80

    train(tmp_path, *options)
    assert metric_lines(tmp_path) == metric_lines(reference("steps=80"))
    assert final_weights(tmp_path) == final_weights(reference("steps=80"))


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path, start):
    job = start(tmp_path, "steps=4000", "checkpoint.every=1000000", ranks=2)
    assert job.wait_for_step(5)
    ranks = [p for p in psutil.Process(job.process.pid).children() if "bridgetower_train" in p.cmdline()]
    assert len(ranks) == 2
    os.kill(max(ranks, key=lambda p: p.environ()["RANK"]).pid, signal.SIGTERM)
    assert "stopped by a signal after step" in job.finish()
    assert len(step_folders(tmp_path)) == 1


def test_every_kind_of_damage_falls_back_to_the_checkpoint_before(tmp_path, shapes_root, capsys):
    run_dir = tmp_path / "run"
    train_here(shapes_root, run_dir, "steps=8", "checkpoint.every=4")
    before, last = step_folders(run_dir)
    intact = tmp_path / "intact"
    shutil.copytree(last, intact)
    for name in sorted(str(p.relative_to(last)) for p in last.rglob("*") if p.is_file()):
        content = (last / name).read_bytes()
        flipped = (
            content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
        )
        for damage in (content[:-1], b"", flipped, None):
            (last / name).unlink()
            if damage is not None:
                (last / name).write_bytes(damage)
            said = []
            assert newest(run_dir, said.append) == before, f"{name} damaged, and yet loaded"
            assert len(said) == 1
            assert str(last) in said[0]
            shutil.rmtree(last)
            shutil.copytree(intact, last)
    assert newest(run_dir, said.append) == last

    (last / "model.safetensors").write_bytes(b"torn")
    train_here(shapes_root, run_dir, "steps=8", "checkpoint.every=4")
    output = capsys.readouterr().out
    assert f"skipping {last}" in output
    assert "resume    from step 4" in output
    assert final_weights(run_dir) == (intact / "model.safetensors").read_bytes()


def test_ranks_that_see_no_checkpoint_go_on_from_that_of_the_first(tmp_path, train, customised):
    """The newest is damaged, so that the first has to choose."""
    run_dir, options, blind = tmp_path / "run", ["steps=8", "checkpoint.every=4"], customised(REFUSING)
    train(run_dir, *options, ranks=2, env=blind)
    last = step_folders(run_dir)[-1]
    intact = (last / "model.safetensors").read_bytes()
    (last / "model.safetensors").write_bytes(b"torn")
    output = train(run_dir, *options, ranks=2, env=blind)
    assert f"skipping {last}" in output
    assert "resume    from step 4" in output
    assert final_weights(run_dir) == intact


def test_no_whole_checkpoint_is_an_error_and_not_a_new_beginning(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path, "steps=2")
    for folder in step_folders(tmp_path):
        (folder / "manifest.json").unlink()
    train_here(shapes_root, tmp_path, "steps=2", code=1)
    assert "is intact" in capsys.readouterr().err


def test_a_run_folder_keeps_to_its_run(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path, "steps=2")
    train_here(shapes_root, tmp_path, "steps=4", "data.lanes=2", "seed=1", code=1)
    error = capsys.readouterr().err
    assert "data.lanes was 4, is 2" in error
    assert "seed was 0, is 1" in error
    assert error.count("\n") == 1
    train_here(shapes_root, tmp_path, "steps=2")
    assert "nothing" in capsys.readouterr().out


def test_four_ranks_go_on_as_one_with_four_micro_batches(tmp_path, train):
    """Dropout, negatives and contrast belong to places in the global batch, so the losses stay the same."""
    options = ["steps=8", "checkpoint.every=4"]
    train(tmp_path, *options, ranks=4)
    before = losses(tmp_path)
    shutil.rmtree(step_folders(tmp_path)[-1])
    output = train(tmp_path, *options, "micro_batch=2")
    assert "resume    from step 4" in output
    assert "1 rank x 2 samples x 4 micro-batches" in output
    assert losses(tmp_path) == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize("decides", [["objective.itm_negatives=hard"], ["objective.contrast=micro_batch"]])
def test_a_micro_batch_that_decides_a_loss_stays(tmp_path, shapes_root, capsys, decides):
    train_here(shapes_root, tmp_path, "steps=2", "micro_batch=4", *decides)
    train_here(shapes_root, tmp_path, "steps=4", "micro_batch=2", *decides, code=1)
    assert "micro_batch was 4, is 2" in capsys.readouterr().err
    train_here(shapes_root, tmp_path, "steps=3", "micro_batch=4", *decides)


def test_old_checkpoints_go_and_milestones_stay(tmp_path, shapes_root):
    train_here(shapes_root, tmp_path, "steps=12", "checkpoint.every=2", "checkpoint.keep_every=6")
    assert [int(f.name[5:]) for f in step_folders(tmp_path)] == [6, 10, 12]


def test_a_full_disk_leaves_the_old_checkpoint_and_says_what_was_needed(tmp_path, train):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=16m tmpfs {disk} 2>/dev/null"):
        pytest.skip("mounting a small file system needs root")
    try:
        output = train(disk / "run", "steps=20", "checkpoint.every=2", "checkpoint.keep_last=9", code=1)
        assert "It needs" in output
        assert "are free" in output
        assert "is kept" in output
        assert "Traceback" not in output
        assert not list((disk / "run" / "checkpoints").glob("*.tmp"))
        assert newest(disk / "run", print) is not None
    finally:
        os.system(f"umount {disk}")
