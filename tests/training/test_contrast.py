"""A step means the same on any number of ranks and micro-batches: what is contrasted, drawn and averaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import gradients, part, pretraining, random_batch, relabelled, run_ranks
from torch import Tensor

from bridgetower_train.config import DeviceConfig, ModelConfig, ObjectiveConfig, OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines import ENGINES, Engine, NativeEngine
from bridgetower_train.tasks import Contrast
from bridgetower_train.tasks.base import Metrics, whole
from bridgetower_train.training.step import backward
from tests.tiny import SMALL

FORMS = ("hf", "symmetric", "ms")
TINY = replace(SMALL, image_size=16, width=64, vision_layers=2, text_layers=2, fusion_layers=2, max_text_len=8)
LEAST = replace(TINY, vision_layers=1, text_layers=1, fusion_layers=1)
PAIRS = 32
"""Of a global batch."""


def neighbours(size: int, seed: int = 0) -> Batch:
    """A batch whose negatives are within each two rows."""
    rows = torch.arange(size)
    return replace(relabelled(random_batch(TINY, size, seed), itm_negative=rows ^ 1), image_id=rows)


def micro_batches(batch: Batch, contrast: Contrast, rank: int = 0) -> list[Batch]:
    """Those of a rank, from the global batch."""
    size, first = contrast.micro_batch, rank * contrast.micro_batches
    return [part(batch, slice((first + n) * size, (first + n + 1) * size)) for n in range(contrast.micro_batches)]


def engine_of(
    objective: ObjectiveConfig,
    model: ModelConfig = TINY,
    name: str = "native",
    lr: float = 1e-3,
    ranks: Ranks | None = None,
) -> Engine:
    torch.manual_seed(0)
    device = CpuDevice(DeviceConfig(name="cpu"), 0)
    task = pretraining(model, objective)
    # Not 1e-8: some gradients are zero but for rounding, such as that of a key's bias, and AdamW would divide it by itself.
    optim = OptimConfig(lr=lr, lr_fusion=lr, lr_heads=lr, eps=1e-6)
    return ENGINES[name](task, device, ranks or Ranks(0, 1, None), optim, accumulates=True)


def seed_of(step: int, contrast: Contrast, rank: int, number: int) -> None:
    torch.manual_seed(1000 * step + rank * contrast.micro_batches + number)


def in_one_graph(engine: NativeEngine, batches: list[Batch], among: int) -> Metrics:
    """The definition: all micro-batches keep their graphs, and are compared in the end."""
    task = engine.task
    totals = torch.stack([task.counts(batch) for batch in batches]).sum(0)
    parts = []
    for number, batch in enumerate(batches):
        torch.manual_seed(number)
        parts.append(task(batch, totals))
    embedded = {name: torch.cat([own[name] for _, _, own in parts]) for name in parts[0][2]}
    loss = torch.stack([loss for loss, _, _ in parts]).sum()
    metrics = {name: torch.stack([own[name] for _, own, _ in parts]).sum() for name in parts[0][1]}
    loss, metrics = whole((loss, metrics, embedded), partial(task.across, totals=totals, among=among))
    loss.backward()
    return metrics


@pytest.mark.parametrize("among", [8, 4, 2])
@pytest.mark.parametrize("negatives", ["random", "hard"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("form", FORMS)
def test_two_passes_give_the_gradients_of_one_graph(form: str, dropout: float, negatives: str, among: int):
    """Four micro-batches of two: all contrasted, or each two of them; alone they need no second pass."""
    engine = engine_of(
        ObjectiveConfig(itc_form=form, itm_negatives=negatives, itc_dim=16), replace(TINY, dropout=dropout)
    )
    engine.task.double()
    contrast = Contrast(among, 2, 4, 1)
    assert contrast.two_passes == (among > 2)
    batches = micro_batches(neighbours(8), contrast)
    expected = in_one_graph(engine, batches, among)
    exact = gradients(engine.task)
    engine.task.zero_grad()
    found = backward(engine, batches, contrast, torch.manual_seed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), abs=1e-10), name
    for name, gradient in gradients(engine.task).items():
        assert (gradient - exact[name]).abs().max().item() < 1e-10, name


def test_the_two_passes_are_needed():
    """What the second pass computes alone is another loss."""
    engine = engine_of(ObjectiveConfig(itc_dim=16))
    batches = micro_batches(neighbours(8), Contrast(8, 2, 4, 1))
    among_all, among_two = (
        backward(engine, batches, Contrast(among, 2, 4, 1), torch.manual_seed)["loss_itc"].item() for among in (8, 2)
    )
    assert among_all > among_two + 0.5


@contextmanager
def among_first(world_size: int, folder: Path, rank: int) -> Iterator[Ranks | None]:
    """The first ranks of the processes are a group of their own inside the block; None for the others."""
    if rank < world_size:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{world_size}", rank=rank, world_size=world_size)
        try:
            yield Ranks(rank, world_size, dist.group.WORLD if world_size > 1 else None)
            dist.barrier()
        finally:
            dist.destroy_process_group()
    else:
        yield None


def train(
    objective: ObjectiveConfig,
    ranks: Ranks,
    count: int,
    steps: int,
    lr: float,
    model: ModelConfig = TINY,
    name: str = "native",
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """(means of each step, last weights) of a run with `count` micro-batches on each of `ranks`."""
    size = PAIRS // ranks.world_size // count
    among = size if objective.contrast == "micro_batch" else PAIRS
    contrast = Contrast(among, size, count, ranks.world_size)
    engine, lines = engine_of(objective, model, name, lr, ranks), []
    for step in range(steps):
        batches = micro_batches(neighbours(PAIRS, step), contrast, ranks.rank)
        metrics = backward(engine, batches, contrast, partial(seed_of, step, contrast, ranks.rank))
        metrics |= engine.step()
        figures = torch.stack([value.detach().float() for value in metrics.values()])
        if ranks.world_size > 1:
            dist.all_reduce(figures)
        lines.append(dict(zip(metrics, (figures / ranks.world_size).tolist(), strict=True)))
    with engine.full_params() as task:
        return lines, {n: p.detach().clone() for n, p in task.model.named_parameters()}


GRID = [(ranks, count) for ranks in (1, 2, 4) for count in (1, 2, 4)]


def all_cells(rank: int, folder: str) -> dict[Any, Any]:
    """(form, ranks, micro-batches) -> figures; one group of processes goes through all."""
    dist.destroy_process_group()
    results = {}
    for form in FORMS:
        objective = ObjectiveConfig(itc_form=form, itc_dim=16)
        for world_size, count in GRID:
            cell = Path(folder) / f"{form}-{count}"
            cell.mkdir(exist_ok=True)
            with among_first(world_size, cell, rank) as ranks:
                if ranks:
                    fast = train(objective, ranks, count, 20, 1e-3, LEAST)[0]
                    slow = train(objective, ranks, count, 3, 1e-5, LEAST)[1]
                    results[form, world_size, count] = fast, slow
    return results


def test_ranks_and_micro_batches_change_nothing(tmp_path):
    cells = run_ranks(all_cells, 4, str(tmp_path))[0]
    assert len(cells) == len(FORMS) * len(GRID)
    for (form, world_size, count), (lines, weights) in cells.items():
        expected, expected_weights = cells[form, 1, 1]
        for line, other in zip(lines, expected, strict=True):
            assert line == pytest.approx(other, abs=1e-5, rel=1e-5), (form, world_size, count)
        for name, weight in weights.items():
            assert (weight - expected_weights[name]).abs().max() < 1e-5, (form, world_size, count, name)


NEGATIVES = ("random", "hard")


def with_dropout(negatives: str, ranks: Ranks, engine: str = "native") -> list[dict[str, float]]:
    """The figures of four steps with micro-batches of eight."""
    objective = ObjectiveConfig(itm_negatives=negatives, itc_dim=16)
    count = PAIRS // 8 // ranks.world_size
    return train(objective, ranks, count, 4, 1e-4, replace(LEAST, dropout=0.1), engine)[0]


def natively(rank: int, folder: str) -> dict[Any, Any]:
    """(negatives, ranks) -> figures."""
    dist.destroy_process_group()
    results = {}
    for world_size in (1, 2, 4):
        with among_first(world_size, Path(folder), rank) as ranks:
            if ranks:
                results |= {(negatives, world_size): with_dropout(negatives, ranks) for negatives in NEGATIVES}
    return results


def by_zero(rank: int, world_size: int) -> dict[Any, Any]:
    """(negatives, stage) -> figures."""
    ranks = Ranks(rank, world_size, dist.group.WORLD)
    return {(n, stage): with_dropout(n, ranks, f"zero{stage}") for n in NEGATIVES for stage in (2, 3)}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[Any, Any]:
    """What `natively` finds."""
    return run_ranks(natively, 4, str(tmp_path_factory.mktemp("drawn")))[0]


def assert_same_lines(lines: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, abs=1e-5, rel=2e-5)


def test_ranks_do_not_change_what_is_drawn(drawn):
    """Dropout and hard negatives belong to a place in the global batch."""
    assert len(drawn) == 6
    for negatives in NEGATIVES:
        for world_size in (2, 4):
            assert_same_lines(drawn[negatives, world_size], drawn[negatives, 1])


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.nightly)])
def test_zero_draws_the_same(drawn, world_size):
    pytest.importorskip("deepspeed")
    for (negatives, _), lines in run_ranks(by_zero, world_size, world_size)[0].items():
        assert_same_lines(lines, drawn[negatives, 1])


@pytest.mark.parametrize("bound", [2.0, 1000.0])
def test_an_update_does_not_leave_the_range_of_the_temperature(bound: float):
    """Decided on the sum over the micro-batches: of the parts, some alone would lead out and some in."""
    engine = engine_of(ObjectiveConfig(mlm=1, itm=0, itc_dim=16, contrast="micro_batch"))
    scale = engine.task.model.head("logit_scale")
    for seed in range(12):
        with torch.no_grad():
            scale.fill_(torch.tensor(bound).log())
        batches = micro_batches(neighbours(8, seed), Contrast(2, 2, 4, 1))
        backward(engine, batches, Contrast(2, 2, 4, 1), torch.manual_seed)
        wanted = scale.grad.item()
        engine.step()
        moved = scale.item() - torch.tensor(bound).log().item()
        inward = wanted > 0 if bound > 100 else wanted < 0
        assert (moved != 0) == inward
        engine.optimizer.state.clear()
