"""What is compiled before the first step leaves nothing behind: a run with a warm-up equals one without, bit for bit."""

import pytest

from bridgetower_train.devices.cpu import CpuDevice
from tests.training.runs import final_weights, metric_lines, train_here

RUN = ["data.text_buckets=[14,16]", "micro_batch=4", "optim.clip_norm=1", "optim.schedule=constant", "optim.warmup=0"]
"""Dropout, contrast over two micro-batches, and three text lengths."""

FORCED = "from bridgetower_train.devices.cpu import CpuDevice; CpuDevice.compiles = True"
"""Where nothing is compiled there is no warm-up."""


def assert_equal(run_dir, plain):
    """All metrics and weights."""
    lines = metric_lines(run_dir)
    assert {line.pop("recompiles") for line in lines} == {0}
    assert lines == metric_lines(plain)
    assert final_weights(run_dir) == final_weights(plain)


def warmed(output: str) -> list[str]:
    """The lines about it."""
    return [line.split(",")[0] for line in output.splitlines() if line.startswith("warm-up")]


ALL = [f"warm-up   {n} of 3: texts of {length} tokens" for n, length in ((1, 24), (2, 16), (3, 14))]


def test_native_and_resumed(tmp_path, shapes_root, monkeypatch, capsys):
    train_here(shapes_root, tmp_path / "plain", *RUN, "steps=4")
    assert not warmed(capsys.readouterr().out)
    monkeypatch.setattr(CpuDevice, "compiles", True)
    for steps in (2, 4):
        train_here(shapes_root, tmp_path / "warm", *RUN, f"steps={steps}")
        assert warmed(capsys.readouterr().out) == ALL
    assert_equal(tmp_path / "warm", tmp_path / "plain")
    train_here(shapes_root, tmp_path / "warm", *RUN, "steps=4")
    assert not warmed(capsys.readouterr().out), "no step is left"


@pytest.mark.slow
def test_zero3(tmp_path, train, reference, customised):
    pytest.importorskip("deepspeed")
    options = [*RUN, "engine=zero3", "steps=2"]
    assert warmed(train(tmp_path / "warm", *options, ranks=2, env=customised(FORCED))) == ALL
    assert_equal(tmp_path / "warm", reference(*options, ranks=2))
