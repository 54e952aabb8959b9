"""A task that lives in one file of its own goes through all that the framework does with a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import TINY
from tests.training.runs import ROOT, final_weights, metric_lines

MIRROR = Path(__file__).parent / "mirror.py"


def bridgetower(*arguments: str, ranks: int = 1, code: int = 0, **env: str) -> str:
    """`bridgetower` with the toy task; its output."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(MIRROR), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def options(shapes_root: Path) -> list[str]:
    validation = ["data.validation=shapes_heldout", "validation.every=4", "validation.samples=16"]
    return ["train", *TINY, "task=mirror", f"data.root={shapes_root}", "steps=8", "checkpoint.every=4", *validation]


@pytest.fixture(scope="module")
def run_dir(options, tmp_path_factory) -> Path:
    """An undisturbed run. Do not write to it."""
    run_dir = tmp_path_factory.mktemp("mirror") / "run"
    bridgetower(*options, f"run_dir={run_dir}", "data.workers=1")
    return run_dir


def test_it_trains_and_validates(run_dir: Path):
    lines = metric_lines(run_dir)
    assert {"loss_mirror", "acc_mirror"} <= lines[0].keys()
    assert "val_loss_mirror" in lines[4]
    assert lines[0]["loss"] == lines[0]["loss_mirror"]
    assert not any("itm" in name for line in lines for name in line)


def test_it_resumes_bit_for_bit(run_dir: Path, options, tmp_path: Path):
    bridgetower(*options, "steps=4", "optim.schedule=constant", f"run_dir={tmp_path / 'cut'}")
    said = bridgetower(*options, "optim.schedule=constant", f"run_dir={tmp_path / 'cut'}")
    assert "resume    from step 4" in said
    bridgetower(*options, "optim.schedule=constant", f"run_dir={tmp_path / 'whole'}")
    assert final_weights(tmp_path / "cut") == final_weights(tmp_path / "whole")


def test_zero2_on_two_ranks_agrees(run_dir: Path, options, tmp_path: Path):
    pytest.importorskip("deepspeed")
    for name, engine, ranks in (("native", "native", 1), ("zero2", "zero2", 2)):
        bridgetower(*options, "model.dropout=0", f"engine={engine}", f"run_dir={tmp_path / name}", ranks=ranks)
    native, zero = metric_lines(tmp_path / "native"), metric_lines(tmp_path / "zero2")
    for ours, theirs in zip(native, zero, strict=True):
        assert theirs == {name: pytest.approx(value, rel=2e-4, abs=2e-4) for name, value in ours.items()}


def test_another_task_does_not_resume_it(run_dir: Path, options):
    said = bridgetower(*options, f"run_dir={run_dir}", "task=pretraining", code=1)
    assert "task was 'mirror', is 'pretraining'" in said


def test_its_samples_are_shown(run_dir: Path, options, tmp_path: Path):
    bridgetower("view", *options[1:], f"run_dir={tmp_path}", "n=4", f"out={tmp_path / 'view.html'}")
    page = (tmp_path / "view.html").read_text()
    assert page.count("<img") == 8
    assert "second image" in page


def test_it_is_reported_and_planned(run_dir: Path, options, tmp_path: Path):
    bridgetower("report", f"run_dir={run_dir}", f"out={tmp_path / 'report.html'}")
    page = (tmp_path / "report.html").read_text()
    assert "Mirror images" in page
    assert "Image-text matching" not in page
    planned = bridgetower("plan", *options[1:], "hardware=gaudi2x8", "data.lanes=8", f"out={tmp_path / 'plan.html'}")
    assert "GB" in planned


def test_it_is_exported(run_dir: Path, tmp_path: Path):
    said = bridgetower("export", f"run_dir={run_dir}", f"out={tmp_path / 'exported'}")
    assert "loads as BridgeTowerModel" in said
    weights = load_file(tmp_path / "exported" / "model.safetensors")
    assert weights["mirror_score.fc.weight"].shape == (2, 4 * 64)
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["architectures"] == ["BridgeTowerModel"]


def test_pretraining_starts_from_it(run_dir: Path, options, tmp_path: Path):
    said = bridgetower(
        *options, "task=pretraining", "steps=1", f"init.checkpoint={run_dir}", f"run_dir={tmp_path / 'run'}"
    )
    assert "left out, since no loss here reads them: mirror_score" in said
    assert torch.isfinite(torch.tensor(metric_lines(tmp_path / "run")[0]["loss"]))
