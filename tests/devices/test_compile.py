"""Parts that are compiled one by one: the same step, and no more graphs than planned."""

from dataclasses import replace

import pytest
import torch
from helpers import gradients, pretraining, random_batch

from bridgetower_train.config import DataConfig, DeviceConfig, EngineConfig, ObjectiveConfig, OptimConfig, TrainConfig
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.distributed import ALONE
from bridgetower_train.engines import NativeEngine
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.graphs import planned_graphs
from bridgetower_train.tasks import contrast, task_class
from bridgetower_train.tasks.base import evaluating
from bridgetower_train.training.guards import UpdateGuard
from bridgetower_train.training.step import backward, update
from bridgetower_train.training.warm_up import warm_up
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


@pytest.mark.parametrize(
    ("depth", "patch_dropout", "freeze", "graphs"),
    [
        (1, 0.0, [], 23),
        *(pytest.param(depth, 0.5, ["image:1"], 71, marks=pytest.mark.nightly) for depth in (3, 6)),
    ],
)
def test_nothing_is_compiled_after_the_warm_up(
    device: CpuDevice, depth: int, patch_dropout: float, freeze: list[str], graphs: int, monkeypatch: pytest.MonkeyPatch
):
    """50 steps of all text lengths, on whole images and others, of two passes over two micro-batches each, with a frozen block,
    recomputation, skipped updates and evaluation in between. How many graphs there are does not depend on the depth.
    """
    monkeypatch.setattr(CpuDevice, "compiler", "eager")  # as many graphs, which are run as they were captured
    model = replace(
        SMALL, width=64, vision_layers=depth, text_layers=depth, fusion_layers=min(2, depth), dropout=0.1,
        patch_dropout=patch_dropout,
    )  # fmt: skip
    config = TrainConfig(
        model=model, objective=OBJECTIVE, global_batch=4, micro_batch=2, data=DataConfig(lanes=2, text_buckets=[8]),
        engine=EngineConfig(activation_checkpointing=True), optim=OptimConfig(freeze=freeze, clip_norm=1.0),
    )  # fmt: skip
    compared = contrast(config, 1)
    assert compared.two_passes
    task = task_class(config)(config, device.attention)
    device.compile(task.model)
    checkpoint_blocks(task.model, device)
    engine = NativeEngine(task, device, ALONE, config.optim, accumulates=True)
    before = device.compilations()
    warm_up(config, engine, compared)
    warm = device.compilations()
    assert warm - before == planned_graphs(config, compared, "compile").distinct == graphs
    guard = UpdateGuard(config.guards, device.torch_device)
    for step in range(50):
        shape = config.shapes[step % len(config.shapes)]
        batch = task_class(config).blank_batch(config, 2, shape)
        totals = torch.full((3,), torch.nan) if step % 10 == 9 else None
        backward(engine, [batch] * 2, compared, device.seed, totals)
        assert float(update(engine, guard)["skipped"]) == (totals is not None)
        if step % 20 == 10:
            with evaluating(task, device):
                other = task_class(config).blank_batch(config, 3 + step // 20)
                task.losses(other, task.counts(other))
        assert device.compilations() == warm, (step, shape)
