"""A run knows its history: what trained, what changed on the way, and that other weights are another run."""

import json
import os
from pathlib import Path

import pytest
import yaml

from bridgetower_train.cli import main
from tests.training.runs import export_here, train_here


def files(run_dir: Path) -> dict[str, bytes]:
    """All that a start with something to train would write, and the names of the rest."""
    found = {str(path.relative_to(run_dir)): path for path in run_dir.rglob("*") if path.is_file()}
    return {name: path.read_bytes() if name != "lock" else b"" for name, path in found.items()}


def starts(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "starts.jsonl").read_text().splitlines()]


@pytest.fixture
def run_dir(tmp_path, shapes_root):
    """A run of four steps from random weights."""
    train_here(shapes_root, tmp_path / "run", "steps=4")
    return tmp_path / "run"


def test_changed_keys_are_printed_and_noted_with_what_ran(run_dir, shapes_root, capsys, tmp_path):
    train_here(shapes_root, run_dir, "steps=6", "optim.lr=5e-2")
    assert "changed   steps was 4, is 6; optim.lr was 0.001, is 0.05" in capsys.readouterr().out
    train_here(shapes_root, run_dir, "steps=7", "optim.lr=5e-2")
    first, second, third = starts(run_dir)
    assert (first["step"], first["changed"], first["ranks"]) == (0, {}, 1)
    assert (second["step"], second["changed"]) == (4, {"steps": ["4", "6"], "optim.lr": [1e-3, 5e-2]})
    assert (third["step"], third["changed"]) == (6, {"steps": ["6", "7"]})
    assert {"time", "command", "commit", "versions", "hosts"} < set(third)
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["optim"]["lr"] == 5e-2
    before = os.umask(0o027)
    try:
        out = export_here(run_dir, tmp_path / "out")
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o750
    card = (out / "README.md").read_text()
    assert "| changed on the way | from step 4 on steps 6 instead of 4, optim.lr 0.05 instead of 0.001; " in card
    assert main(["report", f"run_dir={run_dir}"]) == 0
    assert "optim.lr 0.05 instead of 0.001" in (run_dir / "report.html").read_text()


def test_nothing_is_written_where_no_step_is_left(run_dir, shapes_root, capsys):
    before = files(run_dir)
    train_here(shapes_root, run_dir, "steps=3", "optim.lr=5e-2", "tensorboard=true", "wandb.project=test")
    output = capsys.readouterr().out
    assert "resume    from step 4: nothing left to do" in output
    assert "to go" not in output
    assert files(run_dir) == before


def test_weights_of_another_start_are_refused_with_the_remedy(run_dir, shapes_root, tmp_path, capsys):
    before = files(run_dir)
    train_here(shapes_root, run_dir, "steps=3", f"init.checkpoint={run_dir}", code=2)
    error = capsys.readouterr().err
    assert f"init.checkpoint={run_dir}: the run in {run_dir} began from weights without it; leave it out to" in error
    assert "choose another run_dir" in error
    assert files(run_dir) == before

    tuned = tmp_path / "tuned"
    train_here(shapes_root, tuned, "steps=1", f"init.checkpoint={run_dir}")
    train_here(shapes_root, tuned, "steps=2")
    assert yaml.safe_load((tuned / "config.yaml").read_text())["init"]["checkpoint"] == str(run_dir)
    train_here(shapes_root, tuned, "steps=3", f"init.checkpoint={tuned}", code=2)
    assert f"give init.checkpoint={run_dir} to resume it" in capsys.readouterr().err


def test_a_configuration_that_cannot_be_read_is_named(run_dir, shapes_root, capsys):
    (run_dir / "config.yaml").write_bytes(b"\0")
    train_here(shapes_root, run_dir, "steps=5")
    assert "which keys have changed is not known" in capsys.readouterr().out
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["steps"] == "5"


def test_a_run_has_a_step(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path, "steps=0", code=2)
    assert "steps=0: must be at least one step" in capsys.readouterr().err
