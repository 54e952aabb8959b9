"""Activation checkpointing, applied to a model without changing its code."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from bridgetower_train.model.bridgetower import blocks


def checkpoint_blocks(model: nn.Module) -> None:
    """Make every transformer block of `model` save only its inputs, and recompute its activations in the backward pass.

    The generators' states are saved too, so that dropout is the same; parameters keep their names.
    """
    for block in blocks(model):
        forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=True)
        block.forward = forward  # type: ignore[method-assign]
