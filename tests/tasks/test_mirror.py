"""A task that lives in one file of its own goes through all that the framework does with a run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bridgetower_train.cli import main
from bridgetower_train.evaluation import EVALUATIONS
from bridgetower_train.tasks import TASKS
from tests.tasks.mirror import MIRROR_ACCURACY, Mirror
from tests.tiny import TINY
from tests.training.runs import ROOT, final_weights, metric_lines

MIRROR = Path(__file__).parent / "mirror.py"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "mirror", Mirror)
    monkeypatch.setitem(EVALUATIONS, "mirror", MIRROR_ACCURACY)


def bridgetower(*arguments: str, ranks: int = 1, code: int = 0) -> str:
    """`bridgetower` with the task, in processes of their own; the output."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(MIRROR), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def options(shapes_root: Path) -> list[str]:
    validation = ["data.validation=shapes_heldout", "validation.every=4", "validation.samples=16"]
    same_for_any_length = ["optim.schedule=constant", "optim.warmup=0", "model.dropout=0"]
    return [
        *TINY,
        "task=mirror",
        f"data.root={shapes_root}",
        "steps=8",
        "checkpoint.every=4",
        *validation,
        *same_for_any_length,
    ]


@pytest.fixture(scope="module")
def run_dir(options, tmp_path_factory) -> Path:
    """An undisturbed run. Do not write to it."""
    run_dir = tmp_path_factory.mktemp("mirror") / "run"
    bridgetower("train", *options, f"run_dir={run_dir}", "data.workers=1")
    return run_dir


def test_it_trains_and_validates(run_dir: Path):
    lines = metric_lines(run_dir)
    assert {"loss_mirror", "acc_mirror"} <= lines[0].keys()
    assert "val_loss_mirror" in lines[4]
    assert lines[0]["loss"] == lines[0]["loss_mirror"]
    assert not any("itm" in name for line in lines for name in line)


def test_it_resumes_bit_for_bit(run_dir: Path, options, tmp_path: Path):
    bridgetower("train", *options, "steps=4", f"run_dir={tmp_path}")
    assert "resume    from step 4" in bridgetower("train", *options, f"run_dir={tmp_path}")
    assert final_weights(tmp_path) == final_weights(run_dir)


def test_zero2_on_two_ranks_agrees(run_dir: Path, options, tmp_path: Path):
    pytest.importorskip("deepspeed")
    bridgetower("train", *options, "engine=zero2", f"run_dir={tmp_path}", ranks=2)
    for ours, theirs in zip(metric_lines(run_dir), metric_lines(tmp_path), strict=True):
        assert theirs == {name: pytest.approx(value, rel=2e-4, abs=2e-4) for name, value in ours.items()}


def test_another_task_does_not_resume_it(run_dir: Path, options, capsys):
    assert main(["train", *options, f"run_dir={run_dir}", "task=pretraining"]) == 1
    assert "task was 'mirror', is 'pretraining'" in capsys.readouterr().err


def test_an_unknown_task_is_named(options, tmp_path: Path, capsys):
    assert main(["train", *options, f"run_dir={tmp_path}", "task=mirorr"]) == 2
    assert (
        "task=mirorr: must be one of pretraining, vqav2, snli_ve, nlvr2, classes, mirror; did you mean 'mirror'?"
        in capsys.readouterr().err
    )


def test_its_samples_are_shown(options, tmp_path: Path):
    assert main(["view", *options, f"run_dir={tmp_path}", "n=4", f"out={tmp_path / 'view.html'}"]) == 0
    page = (tmp_path / "view.html").read_text()
    assert page.count("<img") == 8
    assert "second image" in page


def test_it_is_reported_and_planned(run_dir: Path, options, tmp_path: Path, capsys):
    assert main(["report", f"run_dir={run_dir}", f"out={tmp_path / 'report.html'}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Mirror images" in page
    assert "Image-text matching" not in page
    assert (
        main(
            [
                "plan",
                *options,
                f"model_from={run_dir}",
                "hardware=gaudi2x8",
                "data.lanes=8",
                f"out={tmp_path / 'plan.html'}",
            ]
        )
        == 0
    )
    assert "GB" in capsys.readouterr().out


def test_it_is_evaluated_and_its_examples_reported(run_dir: Path, shapes_root: Path, tmp_path: Path, capsys):
    """By name and among all that the model has heads for, from the run and from its export."""
    copy, out = shutil.copytree(run_dir, tmp_path / "run"), tmp_path / "exported"
    assert main(["eval", f"run_dir={copy}"]) == 0
    assert "mirror accuracy" in capsys.readouterr().out
    assert main(["export", f"run_dir={run_dir}", f"out={out}"]) == 0
    assert main(["eval", "mirror", f"run_dir={copy}"]) == 0
    assert main(["eval", "mirror", f"run_dir={out}", f"root={shapes_root}", "corpus=shapes_heldout"]) == 0
    assert main(["eval", "matching", f"run_dir={copy}"]) == 2
    assert "was trained without itm_score" in capsys.readouterr().err
    ours, exported = (json.loads((folder / "eval.json").read_text())["evaluations"] for folder in (copy, out))
    assert set(ours) == {"overview on shapes_heldout", "mirror images on shapes_heldout"}
    name = "mirror images on shapes_heldout"
    assert ours[name]["figures"] == exported[name]["figures"] == ours["overview on shapes_heldout"]["figures"]
    assert main(["report", f"run_dir={copy}"]) == 0
    page = (copy / "report.html").read_text()
    assert page.count("and its mirror image") == page.count("mirror accuracy") == 2
    assert page.count("<img") == 4


def test_it_is_exported(run_dir: Path, tmp_path: Path, capsys):
    assert main(["export", f"run_dir={run_dir}", f"out={tmp_path / 'exported'}"]) == 0
    assert "loads as BridgeTowerModel" in capsys.readouterr().out
    weights = load_file(tmp_path / "exported" / "model.safetensors")
    assert weights["mirror_score.fc.weight"].shape == (2, 4 * 64)
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["architectures"] == ["BridgeTowerModel"]


def test_pretraining_starts_from_it(run_dir: Path, options, tmp_path: Path):
    overrides = ["task=pretraining", "steps=1", f"init.checkpoint={run_dir}", f"run_dir={tmp_path}"]
    said = bridgetower("train", *options, *overrides)
    assert "ignored, since no loss of this run uses them: mirror_score" in said
    assert metric_lines(tmp_path)[0]["loss"] > 0
