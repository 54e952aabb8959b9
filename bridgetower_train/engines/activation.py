"""Activation checkpointing, applied to a model from outside."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from bridgetower_train.model.bridgetower import blocks


def checkpoint_blocks(model: nn.Module) -> None:
    """Let every transformer block of `model` keep its inputs alone, and compute itself again in the backward pass.

    The generators' states are kept too, so that dropout drops the same; the names of parameters do not change.
    """
    for block in blocks(model):
        forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=True)
        block.forward = forward  # type: ignore[method-assign]
