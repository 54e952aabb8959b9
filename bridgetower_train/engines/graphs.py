"""What is compiled, and how often it is launched, where forward and backward passes run as graphs."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.model.bridgetower import compiled_parts
from bridgetower_train.tasks import Contrast, task_class

_EMBEDDING = "the embedding pass"
_DISTINCT = 14
"""Graphs of one pass that differ where blocks are recomputed, however deep the model is: counted on the emulated card, with three
or more fusion layers, all losses, and towers deeper than that."""


class Graphs(NamedTuple):
    """The graphs of a step's passes over its micro-batches; those of the update and of what compares samples are few."""

    kinds: tuple[str, ...]
    """Kinds of pass."""
    distinct: int
    """To compile, for every kind of pass and shape of a micro-batch."""
    launches: int
    """Per step."""

    def describe(self, config: TrainConfig) -> str:
        """In a line."""
        lengths = ", ".join(map(str, config.text_lengths))
        counts = config.model.patch_counts
        images = f" and images of {', '.join(map(str, (n or 'all' for n in counts)))} patches" if any(counts) else ""
        return (
            f"about {self.distinct} to compile, for texts of {lengths} tokens{images} in {', '.join(self.kinds)}; about "
            f"{self.launches} launches a step, beside those of the update"
        )


def planned_graphs(config: TrainConfig, contrast: Contrast, execution: str) -> Graphs | None:
    """About how many graphs a step has on each rank; None in eager execution."""
    ways = {"lazy": _lazy, "compile": _compiled}
    return ways[execution](config, contrast) if execution in ways else None


def _lazy(config: TrainConfig, contrast: Contrast) -> Graphs:
    """The first micro-batch, which leaves gradients, is another graph than later ones, which add to them.

    Activation checkpointing ends a graph before each block is recomputed (engines.activation), and the fusion's last text layer
    runs twice.
    """
    model, parts = config.model, 1
    if config.engine.activation_checkpointing:
        parts = model.vision_layers + model.text_layers + 2 * model.fusion_layers + 2
    kinds = ("the first micro-batch", "later ones") if contrast.micro_batches > 1 else ("a micro-batch",)
    distinct, launches = len(kinds) * min(parts, _DISTINCT), contrast.micro_batches * parts
    if contrast.two_passes:
        kinds, distinct, launches = (_EMBEDDING, *kinds), distinct + 1, launches + contrast.micro_batches
    return Graphs(kinds, len(config.shapes) * distinct, launches)


def _compiled(config: TrainConfig, contrast: Contrast) -> Graphs:
    """One for each kind of part, shape and type (Device.compile), found by a pass over tensors without data."""
    task, bf16 = task_class(config), config.device.precision == "bf16"
    with FakeTensorMode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        made = task(config)
        passes: dict[str, Callable[[Batch], object]] = {"a micro-batch": lambda batch: made(batch, made.counts(batch))}
        if contrast.two_passes:
            passes = {_EMBEDDING: torch.no_grad()(made.embed), **passes}
        found: list[tuple[object, ...]] = []
        for part in compiled_parts(made.model):
            part.register_forward_pre_hook(partial(_note, found), with_kwargs=True)
        distinct = launches = 0
        for run in passes.values():
            shapes = set[tuple[object, ...]]()
            for shape in config.shapes:
                found.clear()
                run(task.blank_batch(config, contrast.micro_batch, shape))
                shapes.update(found)
            distinct, launches = distinct + len(shapes), launches + len(found) * contrast.micro_batches
    return Graphs(tuple(passes), distinct, launches)


def _note(
    found: list[tuple[object, ...]], part: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    given = {str(number): value for number, value in enumerate(args)} | kwargs
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    shapes = ((name, tuple(value.shape), value.dtype, value.requires_grad) for name, value in tensors.items())
    found.append((type(part), *(p.requires_grad for p in part.parameters()), *shapes))
