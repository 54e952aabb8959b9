"""`bridgetower bench step`: the joint step against Hugging Face's three classes, on the same weights and the same batch."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bridgetower_train.bench.hugging_face import HuggingFaceHeads, separate_flops
from bridgetower_train.bench.kit import (
    BenchModelConfig,
    Figures,
    as_run,
    bench,
    device_clock,
    forward_backward,
    in_turns,
    make_task,
    random_batch,
    timed,
)
from bridgetower_train.bench.traffic import counted
from bridgetower_train.config import at_least
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device, make_device
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.optim import parameter_groups
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.flops import TRAINING
from bridgetower_train.tasks import Task, step_flops

SEPARATE = {
    "same_losses": ("mlm", "itm_aligned", "itm_mismatched", "itc"),
    "one_itm_pair": ("mlm", "itm_aligned", "itc"),
}
"""Passes of Hugging Face's classes that one joint step stands for: with the same losses; and those of a recipe that shows ITM one
pair per text, matched or not, as Microsoft's does, from which less is learned."""

FIGURES = {
    "steps": "a whole training step: forward, backward and update",
    "s": "seconds (median)",
    "pairs_per_s": "pairs per second",
    "gflop_per_pair": "10^9 floating-point operations per pair, by the architecture",
    "tflop_per_s": "10^12 of them per second",
    "of_peak": "share of the device's peak",
    "passes": "forward and backward passes that the steps consist of, and the update",
    "operators": "operators that eager execution launches, without views and allocations",
    "same_losses": "seconds of Hugging Face's step with the same losses / seconds of the joint step",
    "one_itm_pair": "the same for Hugging Face's step with one ITM pair per text (the joint step has two)",
    "first_s": "seconds of the first pass, in which graphs are compiled",
    "graphs": "graphs that were compiled in it",
    "parameters": "parameters of the model",
    "memory_gb": "peak memory of the device, 10^9 bytes",
}
"""What `measure` returns. Rows of `steps`: `joint`, `hf_same_losses`, `hf_one_itm_pair`."""


@dataclass(frozen=True)
class BenchStepConfig(BenchModelConfig):
    """What is timed."""

    batch: int = 2
    """Pairs per step."""
    repeats: int = 5
    """Rounds, after one that does not count; medians are reported."""
    compare: bool = True
    """Time Hugging Face's classes too."""
    activation_checkpointing: bool = False
    """Recompute the blocks of the joint step in its backward pass (Hugging Face's classes cannot)."""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 2)
        at_least("repeats", self.repeats, 1)


def measure(config: BenchStepConfig) -> Figures:
    """FIGURES; without `compare`, those of the joint step alone."""
    device, _ = make_device(config.device)
    run = as_run(config)
    objective = run.objective
    if config.compare and ((objective.mlm, objective.itm, objective.itc) != (1, 1, 1) or objective.itc_form != "hf"):
        raise ConfigError("objective: Hugging Face's classes compute all three losses in form hf; set compare=false")
    task = make_task(run, device)
    batch = random_batch(run, config.batch).to(device.torch_device)
    optimizer = device.adamw(parameter_groups(task.model.named_parameters(), config.optim), config.optim)
    heads = HuggingFaceHeads(task.model, run) if config.compare else None
    if config.activation_checkpointing:
        checkpoint_blocks(task, device)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    all_losses = losses(task, heads, batch, device)
    passes: dict[str, Callable[[], None]] = {
        name: partial(forward_backward, loss, device) for name, loss in all_losses.items()
    }
    # The second update leaves no gradients to the joint step; it takes as long as the first.
    turns = {"joint": passes.pop("joint"), "update": update, **passes, "second": update if heads else lambda: None}
    clock = device_clock(device)
    compiled = _compiling(turns["joint"], device, clock) if device.compiles else {}
    operators = {name: counted(turn).operators.total() for name, turn in turns.items()} if not device.compiles else {}
    taken = in_turns(turns, config.repeats, clock)
    seconds = {name: statistics.median(times) for name, times in taken.items() if name != "second"}
    joint = seconds["joint"] + seconds["update"]
    steps = {"joint": _rates(joint, step_flops(run), config.batch, device)}
    ratios = {}
    if heads:
        flops = separate_flops(run.model, run.objective)
        for name, parts in SEPARATE.items():
            separate = sum(seconds[part] for part in parts) + seconds["update"]
            work = TRAINING * sum(flops[part.split("_")[0]] for part in parts)
            steps[f"hf_{name}"] = _rates(separate, work, config.batch, device)
            ratios[name] = separate / joint
    return {
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
        "memory_gb": device.memory_gb(),
        **compiled,
        **ratios,
        "steps": steps,
        "passes": {
            name: {"s": value} | ({"operators": operators[name]} if operators else {})
            for name, value in seconds.items()
        },
    }


def losses(task: Task, heads: HuggingFaceHeads | None, batch: Batch, device: Device) -> dict[str, Callable[[], Tensor]]:
    """Name -> the loss of the joint step, or of one pass of Hugging Face's classes."""
    totals = task.counts(batch)
    joint: dict[str, Callable[[], Tensor]] = {"joint": lambda: task.losses(batch, totals)[0]}
    if heads is None:
        return joint
    others = batch.pixel_values[batch.labels["itm_negative"]]
    return joint | {
        "mlm": lambda: heads.mlm_loss(batch),
        "itm_aligned": lambda: heads.itm_loss(batch, batch.pixel_values, match=1) / 2,
        "itm_mismatched": lambda: heads.itm_loss(batch, others, match=0) / 2,
        "itc": lambda: heads.itc_loss(batch),
    }


def _compiling(turn: Callable[[], None], device: Device, clock: Callable[[], float]) -> dict[str, float]:
    known = device.compilations()
    return {"first_s": timed(turn, clock), "graphs": device.compilations() - known}


def _rates(seconds: float, flops: float, batch: int, device: Device) -> dict[str, float]:
    rate = flops * batch / seconds
    rates = {"s": seconds, "pairs_per_s": batch / seconds, "gflop_per_pair": flops / 1e9, "tflop_per_s": rate / 1e12}
    return rates | ({"of_peak": rate / device.peak_flops} if device.peak_flops else {})


run = bench("step", measure, FIGURES)
