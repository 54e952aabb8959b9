"""A run goes back to an earlier checkpoint, once, and loses nothing of what it leaves."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bridgetower_train.cli import main
from bridgetower_train.config import TrainConfig
from bridgetower_train.engines import NativeEngine
from bridgetower_train.training import guards
from bridgetower_train.training.going_back import abandon, finish, going_back
from bridgetower_train.weights.checkpoint import step_folders
from tests.training.runs import final_weights, metric_lines, train_here

RUN = ("steps=12", "checkpoint.every=2", "checkpoint.keep_last=9", "optim.schedule=constant", "optim.warmup=0")


def steps(folder: Path) -> list[int]:
    """Of the checkpoints in it."""
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def starts(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "starts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes_root) -> Path:
    """A run of twelve steps, which was evaluated at its end. Do not write to it."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    train_here(shapes_root, run_dir, *RUN)
    assert main(["eval", f"run_dir={run_dir}", "samples=8"]) == 0
    (run_dir / "wandb_id").write_text("before")
    return run_dir


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def test_what_came_after_is_kept_and_the_same_command_goes_on(run_dir, trained, shapes_root, capsys):
    slower = (*RUN, "resume_from=4", "optim.lr=1e-4")
    train_here(shapes_root, run_dir, *slower, "steps=8")
    output = capsys.readouterr().out
    assert "resume    from step 4" in output
    left = run_dir / "abandoned" / "after-step-00000004-1"
    assert f"back      to step 4; what came after is in {left}" in output
    assert "optim.lr was 0.001, is 0.0001" in output
    assert "resume_from was" not in output
    before, after = metric_lines(trained), metric_lines(run_dir)
    assert (steps(left), steps(run_dir / "checkpoints")) == ([6, 8, 10, 12], [2, 4, 6, 8])
    assert [line["step"] for line in after] == list(range(1, 9))
    assert after[:4] == before[:4]
    assert metric_lines(left) == before[4:]
    assert (left / "wandb_id").read_text() == "before"
    assert not (run_dir / "wandb_id").exists()
    assert json.loads((left / "eval.json").read_text())["evaluations"]
    assert not json.loads((run_dir / "eval.json").read_text())["evaluations"]
    assert after[5]["loss"] != before[5]["loss"]
    assert (starts(run_dir)[1]["step"], starts(run_dir)[1]["abandoned"]) == (4, "abandoned/after-step-00000004-1")

    train_here(shapes_root, run_dir, *slower, "steps=10", "log_every=2")
    output = capsys.readouterr().out
    assert "resume_from=4 was done by an earlier start; the newest checkpoint is taken" in output
    assert "resume    from step 8" in output
    assert "abandoned" not in starts(run_dir)[2]

    train_here(shapes_root, run_dir, *slower, "steps=6", "optim.clip_norm=1")
    assert steps(run_dir / "abandoned" / "after-step-00000004-2") == [6, 8, 10]
    assert main(["report", f"run_dir={run_dir}"]) == 0
    assert "back to step 4" in (run_dir / "report.html").read_text()


def test_a_run_that_goes_back_with_the_same_keys_repeats_itself(run_dir, trained, shapes_root):
    train_here(shapes_root, run_dir, *RUN, "resume_from=6")
    assert metric_lines(run_dir) == metric_lines(trained)
    assert final_weights(run_dir) == final_weights(trained)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("resume_from=5", "resume_from=5: no such checkpoint; there are 2, 4, 6, 8, 10, 12 in "),
        (
            "resume_from=6",
            "resume_from=6: the contents of model.safetensors have changed; there are 2, 4, 8, 10, 12 in ",
        ),
        ("resume_from=0", "resume_from=0: must be at least 1"),
    ],
)
def test_a_step_that_cannot_be_gone_back_to(run_dir, shapes_root, capsys, given, said):
    weights = run_dir / "checkpoints" / "step-00000006" / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    train_here(shapes_root, run_dir, *RUN, given, code=2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (run_dir / "abandoned").exists()


def test_a_run_without_checkpoints_and_one_whose_history_is_gone(run_dir, tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path / "new", *RUN, "resume_from=4", code=2)
    assert f"resume_from=4: no such checkpoint; {tmp_path / 'new'} has none" in capsys.readouterr().err
    (run_dir / "config.yaml").write_bytes(b"\0")
    train_here(shapes_root, run_dir, *RUN, "resume_from=4", code=2)
    assert "leave it out to resume from the newest checkpoint" in capsys.readouterr().err


def killed_at(moment: int, run_dir: Path) -> bool:
    """Go back to step 6 in a process that is killed at the change to the folder of this number; whether it was."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = moment

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in ("os.rename", "os.mkdir", "os.remove") and str(run_dir) in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    back = going_back(TrainConfig(run_dir=str(run_dir), resume_from=6), run_dir, {"resume_from": [None, 6]})
    abandon(run_dir, back)
    finish(back)
    os._exit(0)


def contents(run_dir: Path) -> dict[str, bytes]:
    """What a run holds, by name."""
    files = (path for path in run_dir.rglob("[!.]*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


def test_killed_at_any_moment_it_is_whole_or_not_at_all(run_dir, trained, tmp_path):
    asked = TrainConfig(run_dir=str(run_dir), resume_from=6)
    whole = shutil.copytree(trained, tmp_path / "whole")
    assert not killed_at(99, whole)
    expected = contents(whole)
    begun = 0
    for moment in range(99):
        shutil.rmtree(run_dir)
        shutil.copytree(trained, run_dir)
        if not killed_at(moment, run_dir):
            break
        again = asked if moment % 2 else TrainConfig(run_dir=str(run_dir))
        back = going_back(again, run_dir, {"resume_from": [None, 6]})
        if back is None:
            assert contents(run_dir) == contents(trained)
            continue
        begun += 1
        abandon(run_dir, back)
        finish(back)
        assert contents(run_dir) == expected
    assert begun > 8
    assert moment > begun


def spiking(monkeypatch, at: Iterator[int]) -> None:
    """Gradients of these updates of a native engine are a million times as large."""
    inside, number = NativeEngine._stay_inside, 0
    spikes = set(at)

    def spike(self: NativeEngine) -> None:
        nonlocal number
        number += 1
        if number in spikes:
            torch._foreach_mul_(self._gradients(), 1e6)
        inside(self)

    monkeypatch.setattr(NativeEngine, "_stay_inside", spike)
    monkeypatch.setattr(guards, "_FEWEST", 3.0)


def test_a_spike_is_skipped_and_counted_and_a_streak_names_the_checkpoint_before_it(
    tmp_path, shapes_root, monkeypatch, capsys
):
    keys = ("checkpoint.every=2", "guards.max_grad_norm_ratio=100", "guards.max_skipped=6", "steps=20")
    spiking(monkeypatch, range(9, 15))
    train_here(shapes_root, tmp_path, *keys, code=1)
    error = capsys.readouterr().err
    assert "more than guards.max_grad_norm_ratio=100 times its running mean of" in error
    assert "in 6 updates in a row, from step 9 on" in error
    assert "resume_from=8 " in error
    assert error.count("\n") == 1
    last = metric_lines(tmp_path)[-1]
    assert (last["step"], last["skipped"], last["spikes"]) == (14, 6, 6)
    assert [int(folder.name[5:]) for folder in step_folders(tmp_path)] == [8, 10, 12]

    monkeypatch.undo()
    train_here(shapes_root, tmp_path, *keys, "resume_from=8", "steps=10")
    assert "resume    from step 8" in capsys.readouterr().out
    assert metric_lines(tmp_path)[-1]["skipped"] == 0


def test_skipping_survives_a_resume_bit_for_bit(tmp_path, shapes_root, monkeypatch):
    keys = ("checkpoint.every=4", "guards.max_grad_norm_ratio=100", "optim.schedule=constant", "optim.warmup=0")
    spiking(monkeypatch, (4, 6))
    train_here(shapes_root, tmp_path / "whole", *keys, "steps=8")
    monkeypatch.undo()
    spiking(monkeypatch, (4,))
    train_here(shapes_root, tmp_path / "halves", *keys, "steps=4")
    monkeypatch.undo()
    spiking(monkeypatch, (2,))
    train_here(shapes_root, tmp_path / "halves", *keys, "steps=8")
    assert metric_lines(tmp_path / "halves") == metric_lines(tmp_path / "whole")
    assert metric_lines(tmp_path / "whole")[-1]["spikes"] == 2
    assert final_weights(tmp_path / "halves") == final_weights(tmp_path / "whole")


def test_a_streak_without_an_older_checkpoint_says_so(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path, "steps=9", "optim.lr=1e30", "optim.warmup=0", "guards.max_skipped=3", code=1)
    error = capsys.readouterr().err
    assert "was not finite in 3 updates in a row, from step 2 on" in error
    assert "No checkpoint is older: start in another run_dir" in error
