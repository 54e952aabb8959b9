"""Activation checkpointing, applied to a model without changing its code."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bridgetower_train.devices import Device
from bridgetower_train.model.bridgetower import blocks


def checkpoint_blocks(model: nn.Module, device: Device | None = None) -> None:
    """Make every transformer block of `model` save only its inputs, and recompute its activations in the backward pass.

    The generators' states are saved too, so that dropout is the same; parameters keep their names.

    A lazy `device` ends a graph before each block is recomputed. In one graph with the forward pass, its compiler would take
    the second computation for the first, and keep the activations for it (HabanaAI/gaudi-pytorch-bridge,
    habana_lazy/hlexec.cpp; the vendor's DeepSpeed and optimum-habana end a graph there too).
    """
    for block in blocks(model):
        forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=True)
        if device is not None and device.execution == "lazy":
            forward = partial(_bounded, forward, device.mark_step)
        block.forward = forward  # type: ignore[method-assign]


def _bounded(forward: Callable[..., Tensor], mark_step: Callable[[], None], *args: Any, **kwargs: Any) -> Tensor:
    return _Boundary.apply(mark_step, forward(*args, **kwargs))  # type: ignore[no-any-return, no-untyped-call]


class _Boundary(torch.autograd.Function):
    """The output of a block; its gradient comes through here before the block is recomputed."""

    @staticmethod
    def forward(ctx: Any, mark_step: Callable[[], None], x: Tensor) -> Tensor:
        ctx.mark_step = mark_step
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        ctx.mark_step()
        return None, grad
