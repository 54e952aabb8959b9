"""Whole runs under ZeRO, as a user starts them: killed, stopped, and gone on with by other engines on other numbers of ranks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from bridgetower_train.weights.checkpoint import step_folders, step_of
from tests.training.runs import ROOT, final_weights, last_step, metric_lines

pytest.importorskip("deepspeed")

AGREEMENT = 1e-3
"""Of any figure with that of one native rank, relative to its size."""


def without_deepspeed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`bridgetower ARGUMENTS` where DeepSpeed cannot be imported."""
    folder.mkdir(exist_ok=True)
    (folder / "deepspeed.py").write_text("raise ImportError('not here')")
    return subprocess.run(
        [sys.executable, "-m", "bridgetower_train", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_ranks_and_engine_change_in_mid_run(tmp_path, start, train):
    options = ["steps=24", "model.dropout=0", "checkpoint.every=4", "validation.every=8", "validation.samples=16"]
    options += ["objective.itc=0", "micro_batch=2"]  # with accumulation on 1 and 2 ranks, and the same loss
    train(tmp_path / "native", *options)

    run_dir = tmp_path / "changed"
    for saved, ranks, engine in ((4, 4, "zero2"), (8, 2, "zero1"), (12, 2, "zero3")):
        job = start(run_dir, *options, f"engine={engine}", ranks=ranks)
        assert job.wait_for_checkpoint(saved), job.wait()
        job.kill()
        newest = step_of(step_folders(run_dir)[-1])
        assert saved <= newest < 24
    assert f"resume    from step {newest}" in train(run_dir, *options)

    changed, native = metric_lines(run_dir), metric_lines(tmp_path / "native")
    assert [line["step"] for line in changed] == [line["step"] for line in native]
    for line, expected in zip(changed, native, strict=True):
        assert line == {name: pytest.approx(value, rel=AGREEMENT, abs=AGREEMENT) for name, value in expected.items()}


@pytest.mark.slow
@pytest.mark.nightly
def test_a_zero3_run_that_is_stopped_and_killed_equals_an_undisturbed_one(tmp_path, start, train):
    options = ["steps=18", "checkpoint.every=4", "engine=zero3", "engine.activation_checkpointing=true"]
    options += ["validation.every=9", "validation.samples=16"]
    train(tmp_path / "whole", *options, ranks=2)
    run_dir = tmp_path / "disturbed"
    job = start(run_dir, *options, ranks=2)
    assert job.wait_for_step(5)
    job.kill()
    assert last_step(run_dir) < 10
    job = start(run_dir, *options, ranks=2)
    assert job.wait_for_step(10)
    ranks = [p for p in psutil.Process(job.process.pid).children() if "bridgetower_train" in p.cmdline()]
    os.kill(ranks[-1].pid, signal.SIGTERM)
    assert "stopped by a signal after step" in job.wait()
    assert job.process.returncode == 0
    train(run_dir, *options, ranks=2)
    assert metric_lines(run_dir) == metric_lines(tmp_path / "whole")
    assert final_weights(run_dir) == final_weights(tmp_path / "whole")

    exported = []
    for name in ("once", "twice"):
        done = without_deepspeed(tmp_path / "none", "export", f"run_dir={run_dir}", f"out={tmp_path / name}")
        assert done.returncode == 0, done.stdout
        exported.append((tmp_path / name / "model.safetensors").read_bytes())
    assert exported[0] == exported[1]
    evaluated = without_deepspeed(tmp_path / "none", "eval", f"run_dir={run_dir}", "samples=16")
    assert evaluated.returncode == 0, evaluated.stdout


def test_bf16_under_zero_is_the_native_engine_s(tmp_path, train, reference):
    options = ["steps=10", "model.dropout=0", "device.precision=bf16"]
    train(tmp_path / "zero3", *options, "engine=zero3")
    for line, native in zip(metric_lines(tmp_path / "zero3"), metric_lines(reference(*options)), strict=True):
        # Of eight pairs one more or less may be right, where two of its logits are about equal.
        expected = {name: value for name, value in native.items() if not name.startswith(("acc_", "recall_"))}
        assert {name: line[name] for name in expected} == pytest.approx(expected, rel=0.01, abs=0.01)
    newest = step_folders(tmp_path / "zero3")[-1]
    assert {value.dtype for value in load_file(newest / "model.safetensors").values()} == {torch.float32}


def test_what_does_not_go_with_zero_is_said(tmp_path, shapes_root):
    options = ["model=tiny", "device=cpu", f"data.root={shapes_root}", f"run_dir={tmp_path / 'run'}", "engine=zero2"]
    missing = without_deepspeed(tmp_path / "none", "train", *options)
    assert missing.returncode == 2, missing.stdout
    assert "engine=zero2: needs DeepSpeed" in missing.stdout
    assert "bridgetower-train[deepspeed]" in missing.stdout
    assert "Traceback" not in missing.stdout
    compiled = without_deepspeed(tmp_path / "none", "train", *options, "engine=zero3", "device.execution=compile")
    assert compiled.returncode == 2
    assert "device.execution=compile: engine=zero3" in compiled.stdout
