"""Blocks that are compiled one by one: the same step, and no more graphs than planned."""

from dataclasses import replace

import pytest
import torch
from helpers import gradients, pretraining, random_batch

from bridgetower_train.config import DataConfig, DeviceConfig, EngineConfig, ObjectiveConfig, TrainConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.graphs import planned_graphs
from bridgetower_train.tasks import contrast, task_class
from bridgetower_train.tasks.base import evaluating
from tests.tiny import SMALL

OBJECTIVE = ObjectiveConfig(itc_dim=16)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CpuDevice:
    """Compiles without generating code, which takes minutes on a CPU; what is captured is the same."""
    monkeypatch.setattr(CpuDevice, "compiler", "aot_eager")
    monkeypatch.setattr(CpuDevice, "compiler_options", None)
    torch.compiler.reset()
    return CpuDevice(DeviceConfig(execution="compile"), 0)


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_the_step_is_the_eager_one(device: CpuDevice, checkpointing: bool):
    batch = random_batch(SMALL, 4)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        task = pretraining(SMALL, OBJECTIVE).double()
        if compiled:
            device.compile(task.model)
        if checkpointing:
            checkpoint_blocks(task.model, device)
        loss, _ = task.losses(batch, task.counts(batch))
        loss.backward()
        results.append((loss.item(), gradients(task)))
    (loss, expected), (compiled_loss, actual) = results
    assert compiled_loss == pytest.approx(loss, abs=1e-12)
    assert actual.keys() == expected.keys(), "parameters keep their names"
    for name, gradient in actual.items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-10), name


@pytest.mark.nightly
def test_nothing_is_compiled_but_what_was_planned(device: CpuDevice):
    """Of all text lengths, with evaluation in between, whatever the depth."""
    model = replace(SMALL, vision_layers=6, text_layers=6, fusion_layers=4, dropout=0.1)
    config = TrainConfig(
        model=model, objective=OBJECTIVE, global_batch=8, micro_batch=4, data=DataConfig(lanes=4, text_buckets=[8]),
        engine=EngineConfig(activation_checkpointing=True),
    )  # fmt: skip
    compared = contrast(config, 1)
    planned = planned_graphs(config, compared, "compile")
    task = task_class(config)(config, device.attention)
    device.compile(task.model)
    checkpoint_blocks(task.model, device)

    def steps() -> int:
        for length in config.text_lengths:
            batch = task_class(config).blank_batch(config, 4, length)
            with torch.no_grad():
                task.embed(batch)
            task.losses(batch, task.counts(batch))[0].backward()
        return device.compilations()

    before = device.compilations()
    first = steps()
    assert first - before == planned.distinct
    with evaluating(task, device):
        task.losses(batch := task_class(config).blank_batch(config, 4), task.counts(batch))
    evaluated = device.compilations()
    assert evaluated - first == 8, "image blocks, which drop nothing, are those of the embedding pass"
    assert steps() == evaluated
