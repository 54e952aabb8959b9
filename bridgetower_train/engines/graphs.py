"""What is compiled, and how often it is launched, where forward and backward passes run as graphs."""

from typing import NamedTuple

from bridgetower_train.config import TrainConfig


class Graphs(NamedTuple):
    """The graphs of a step's passes over its micro-batches; the few of the update are not counted."""

    kinds: tuple[str, ...]
    """Kinds of pass."""
    distinct: int
    """To compile, for every kind of pass and text length."""
    launches: int
    """Per step."""


_DISTINCT = 14
"""Graphs of one pass that differ where blocks are recomputed, however deep the model is: counted on the emulated card, where
three or more fusion layers, all losses and towers deeper than that give so many."""


def planned_graphs(config: TrainConfig, accumulation: int, execution: str) -> Graphs:
    """About how many graphs a step of `accumulation` micro-batches has on each rank, in lazy or compiled execution.

    In lazy execution the first micro-batch, which leaves gradients, is another graph than later ones, which add to them.
    Activation checkpointing ends a graph there before each block is recomputed (engines.activation), and the fusion's last text
    layer runs twice.
    """
    lazy, model = execution == "lazy", config.model
    kinds: tuple[str, ...] = ("the first micro-batch", "later ones") if lazy and accumulation > 1 else ("a micro-batch",)
    parts = 1
    if lazy and config.engine.activation_checkpointing:
        parts = model.vision_layers + model.text_layers + 2 * model.fusion_layers + 2
    return Graphs(kinds, len(config.text_lengths) * len(kinds) * min(parts, _DISTINCT), accumulation * parts)
