"""Operators and bytes of a step, as counted: what they are, and that they do not grow again."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from helpers import pretraining, random_batch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from bridgetower_train.bench.traffic import Traffic, counted
from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.devices import make_device
from bridgetower_train.distributed import ALONE
from bridgetower_train.engines import NativeEngine
from bridgetower_train.model.attention import QueryKeyValue
from bridgetower_train.planning.trace import fused
from tests.tiny import SMALL

OPERATORS = 1700
"""At most, of the joint step of `SMALL` with dropout under bf16 autocast, forward and backward, with fused attention."""
FLOOR = 28
"""Bytes that AdamW moves per weight: it reads weight, gradient and two moments, and writes all but the gradient."""
NORM, SCALED = 4, 4
"""Bytes per weight that clipping adds: one reading of the gradients, and their writing in AdamW's own pass."""


def test_bytes_are_those_of_arguments_and_results():
    x, y = torch.ones(3, 4), torch.ones(4)
    traffic = counted(lambda: (x.t().reshape(3, 4) + y).mul_(2).view(-1))
    assert traffic.operators == {"aten::clone": 1, "aten::add": 1, "aten::mul_": 1}
    assert traffic.read == 4 * (12 + (12 + 4) + 12)
    assert traffic.written == 4 * (12 + 12 + 12)


def engine(clip_norm: float, dtype: torch.dtype = torch.float32) -> NativeEngine:
    """With gradients of one step."""
    torch.manual_seed(0)
    task = pretraining(SMALL, ObjectiveConfig(itc_dim=16)).to(dtype)
    made = NativeEngine(
        task, make_device(DeviceConfig(name="cpu"))[0], ALONE, OptimConfig(clip_norm=clip_norm, lr=1e-3)
    )
    batch = random_batch(SMALL, 4)
    task.losses(batch, task.counts(batch))[0].backward()
    return made


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, FLOOR + NORM), (1.0, FLOOR + NORM + SCALED)])
def test_an_update_moves_little_more_than_adamw_must(clip_norm: float, expected: int):
    made = engine(clip_norm)
    made.step()  # allocates the moments
    batch = random_batch(SMALL, 4)
    made.task.losses(batch, made.task.counts(batch))[0].backward()
    traffic = counted(made.step)
    moved = (traffic.read + traffic.written) / sum(p.grad is None and p.numel() for p in made.parameters)
    assert moved == pytest.approx(expected, rel=0.01)
    assert all(p.grad is None for p in made.parameters), "the next backward pass writes gradients, and adds to none"


@pytest.mark.parametrize("clip_norm", [0.1, 1e6])
def test_an_update_is_torchs(clip_norm: float):
    ours, theirs = engine(clip_norm, torch.float64), engine(clip_norm, torch.float64)
    metrics = ours.step()
    norm = clip_grad_norm_(theirs.parameters, clip_norm)
    theirs.optimizer.step()
    assert float(metrics["grad_norm"]) == pytest.approx(float(norm), rel=1e-12)
    for mine, other in zip(ours.parameters, theirs.parameters, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
    assert float(norm) > 0.1


def test_a_step_launches_no_more_than_it_did():
    task = pretraining(replace(SMALL, dropout=0.1), ObjectiveConfig(itc_dim=16), attention=fused)
    batch = random_batch(SMALL, 8)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = task.losses(batch, task.counts(batch))
        loss.backward()

    assert counted(step).operators.total() <= OPERATORS


def test_projections_of_many_rows_move_fewer_bytes_together():
    projections = QueryKeyValue(ModelConfig(width=128))
    x = torch.randn(1, 1000, 128, dtype=torch.bfloat16, requires_grad=True)
    apart = nn.ModuleList([projections.query, projections.key, projections.value])

    def traffic(project: Callable[[], Sequence[Tensor]]) -> Traffic:
        def both_ways() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = project()
            torch.autograd.backward(out, [torch.ones_like(y) for y in out])

        return counted(both_ways)

    together, three = traffic(lambda: projections(x, x)), traffic(lambda: [linear(x) for linear in apart])
    assert together.read + together.written < three.read + three.written
    assert together.operators.total() <= three.operators.total() / 2
