"""What one card computes, holds and achieves: each function runs in a process of its own, and `first_run` judges it."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from bridgetower_train.bench.kit import make_task, random_batch
from bridgetower_train.bench.memory import BenchMemoryConfig, compare
from bridgetower_train.config import DeviceConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device, make_device
from bridgetower_train.devices.checks import check_device
from bridgetower_train.distributed import ALONE, Ranks
from bridgetower_train.engines import NativeEngine
from bridgetower_train.engines.graphs import planned_graphs
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.findings import Finding
from bridgetower_train.tasks import contrast, step_flops
from bridgetower_train.tasks.base import whole
from bridgetower_train.training.step import backward

STEPS = 20
"""Of a measurement of speed."""
UPDATES = 2
"""Steps of a comparison: the losses of the second depend on the gradients and the update of the first."""


@dataclass(frozen=True)
class Card:
    """What there is."""

    name: str
    """`cpu`, `cuda` or `hpu`."""
    description: str
    why: str
    """Why it was taken."""
    executions: tuple[str, ...]
    """What can be taken here."""
    cards: int


def look(config: TrainConfig) -> tuple[Card, list[Finding]]:
    """(the device, the doctor's findings about it)."""
    device, why = make_device(config.device)
    kind = type(device)
    automatic, _ = kind.choose_execution("auto")
    executions = tuple(e for e in device.executions if e != "lazy" or automatic == "lazy")
    module = getattr(torch, device.name)
    cards = module.device_count() if device.name != "cpu" else 1
    card = Card(device.name, device.description, why, executions, cards)
    return card, check_device(replace(config, device=replace(config.device, name=device.name)))


def _prepared(run: TrainConfig, pairs: int) -> tuple[Device, NativeEngine]:
    device, _ = make_device(run.device)
    return device, engine_for(run, device, ALONE, pairs)


def engine_for(run: TrainConfig, device: Device, ranks: Ranks, pairs: int) -> NativeEngine:
    """The run's task with the same random weights each time."""
    graphs = planned_graphs(run, contrast(run, 1, pairs, pairs), device.execution)
    return NativeEngine(make_task(run, device), device, ranks, run.optim, graphs.distinct if graphs else 0)


def step(run: TrainConfig, engine: NativeEngine, pairs: int, length: int) -> dict[str, torch.Tensor]:
    """One training step on the same batch of texts of `length` tokens; its metrics, on the device."""
    shaped = replace(run, model=replace(run.model, max_text_len=length))
    batch = random_batch(shaped, pairs).to(engine.device.torch_device)
    world = engine.ranks.world_size
    metrics = backward(engine, [batch], contrast(run, world, pairs, pairs * world), engine.device.seed)
    set_lr(engine.optimizer, 1.0)
    metrics |= engine.step()
    engine.device.mark_step()
    return metrics


def undrawn(run: TrainConfig) -> TrainConfig:
    """The run without what each device draws by random numbers of its own: dropout, hard negatives."""
    objective = replace(run.objective, itm_negatives="random")
    return replace(run, model=replace(run.model, dropout=0.0), objective=objective)


def losses(run: TrainConfig, pairs: int) -> list[dict[str, float]]:
    """Metrics of UPDATES steps in which nothing is drawn, from the same weights on the same batch."""
    run = undrawn(run)
    _, engine = _prepared(run, pairs)
    found = [step(run, engine, pairs, run.model.max_text_len) for _ in range(UPDATES)]
    return [{name: float(value) for name, value in metrics.items()} for metrics in found]


def furthest(measured: list[dict[str, float]], expected: list[dict[str, float]]) -> tuple[float, str]:
    """(the largest relative deviation of a loss or gradient norm, where); infinite where one is not a number."""
    worst, where = 0.0, ""
    for number, (here, there) in enumerate(zip(measured, expected, strict=True), 1):
        for name in [name for name in there if name.startswith("loss") or name == "grad_norm"]:
            off = abs(here[name] - there[name]) / max(abs(there[name]), 1e-6)
            if off > worst or not math.isfinite(off):
                worst, where = off if math.isfinite(off) else math.inf, f"{name} of step {number}"
    return worst, where


def capture(run: TrainConfig, pairs: int) -> tuple[str, float]:
    """(what was captured, the largest relative deviation of its loss from the one without): forward pass as one graph."""
    run = undrawn(run)
    device, _ = make_device(run.device)
    task = make_task(run, device)
    first = random_batch(run, pairs)
    second = replace(first, pixel_values=first.pixel_values.flip(0).contiguous(memory_format=torch.channels_last))
    batches = [batch.to(device.torch_device) for batch in (first, second)]

    def loss(module: Any, batch: Batch) -> float:
        totals = task.counts(batch)
        return float(whole(module(batch, totals), partial(task.across, totals=totals, among=pairs))[0].detach())

    plain = [loss(task, batch) for batch in batches]
    if run.device.graphs:
        module: Any = device.capture_graphs(task, 1, False)
        what = "an HPU graph, replayed"
    else:
        module = torch.compile(task, backend="eager", fullgraph=True, dynamic=False)
        what = "one graph of torch.compile, without a break"
    again = [loss(module, batch) for batch in batches]
    return what, max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(again, plain, strict=True))


def memory(run: TrainConfig, pairs: int, recomputes: bool) -> dict[str, float]:
    """GB of a step, `planned` and `measured`, with blocks recomputed or activations kept.

    Once in a process: a device keeps its peak, and a compiled model may not go.
    """
    config = BenchMemoryConfig(
        model=run.model,
        objective=run.objective,
        optim=run.optim,
        device=replace(run.device, graphs=False),
        batch=pairs,
        activation_checkpointing=recomputes,
    )
    device, _ = make_device(config.device)
    peak = compare(config, device, ALONE)
    return {"planned": peak.planned.total / 1e9, "measured": peak.measured / 1e9}


def speed(run: TrainConfig, pairs: int) -> dict[str, dict[str, float]]:
    """Text length -> `pairs_per_s`, `tflop_per_s` and `of_peak`; `after` -> `compilations` once all lengths were warm."""
    device, engine = _prepared(run, pairs)
    one = partial(step, run, engine, pairs)
    for length in run.text_lengths * 3:
        one(length)
    device.synchronize()
    known = device.compilations()
    found: dict[str, dict[str, float]] = {}
    for length in run.text_lengths:
        found[str(length)] = rates(run, device, pairs, length, timed(device, partial(one, length)))
    for length in run.text_lengths * 2:
        one(length)
    device.synchronize()
    return {**found, "after": {"compilations": float(device.compilations() - known)}}


def timed(device: Device, work: Callable[[], object]) -> float:
    """Seconds that STEPS calls of `work` take, until the device has done them."""
    device.synchronize()
    began = time.perf_counter()
    for _ in range(STEPS):
        work()
    device.synchronize()
    return time.perf_counter() - began


def rates(run: TrainConfig, device: Device, pairs: int, length: int, seconds: float) -> dict[str, float]:
    """What STEPS steps in so many seconds come to on this card."""
    rate = STEPS * pairs / seconds
    flops = rate * step_flops(replace(run, model=replace(run.model, max_text_len=length)))
    peak = {"of_peak": flops / device.peak_flops} if device.peak_flops else {}
    return {"pairs_per_s": rate, "tflop_per_s": flops / 1e12, **peak}


def device_as(run: TrainConfig, **changes: object) -> TrainConfig:
    """The run on another device, or as another execution."""
    return replace(run, device=DeviceConfig(**(asdict(run.device) | changes)))  # type: ignore[arg-type]
