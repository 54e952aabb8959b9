"""What is compiled, and how often it is launched, where forward and backward passes run as graphs."""

from typing import NamedTuple

from bridgetower_train.config import TrainConfig
from bridgetower_train.tasks import Contrast

_DISTINCT = 14
"""Graphs of one pass that differ where blocks are recomputed, however deep the model is: counted on the emulated card, with three
or more fusion layers, all losses, and towers deeper than that."""


class Graphs(NamedTuple):
    """The graphs of a step's passes over its micro-batches; those of the update and of what compares samples are few."""

    kinds: tuple[str, ...]
    """Kinds of pass."""
    distinct: int
    """To compile, for every kind of pass and text length."""
    launches: int
    """Per step."""

    def describe(self, config: TrainConfig) -> str:
        """In a line."""
        lengths = ", ".join(map(str, config.text_lengths))
        return (
            f"about {self.distinct} to compile, for texts of {lengths} tokens in {', '.join(self.kinds)}; about {self.launches} "
            "launches a step, beside those of the update"
        )


def planned_graphs(config: TrainConfig, contrast: Contrast, execution: str) -> Graphs:
    """About how many graphs a step has on each rank, in lazy or compiled execution.

    In lazy execution the first micro-batch, which leaves gradients, is another graph than later ones, which add to them.
    Activation checkpointing ends a graph there before each block is recomputed (engines.activation), and the fusion's last text
    layer runs twice.
    """
    lazy, model, parts = execution == "lazy", config.model, 1
    if lazy and config.engine.activation_checkpointing:
        parts = model.vision_layers + model.text_layers + 2 * model.fusion_layers + 2
    several = contrast.micro_batches > 1
    kinds = ("the first micro-batch", "later ones") if lazy and several else ("a micro-batch",)
    distinct, launches = len(kinds) * min(parts, _DISTINCT), contrast.micro_batches * parts
    if contrast.two_passes:
        kinds, distinct, launches = ("the embedding pass", *kinds), distinct + 1, launches + contrast.micro_batches
    return Graphs(kinds, len(config.text_lengths) * distinct, launches)
