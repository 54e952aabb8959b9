"""Tensors of all ranks, with exact gradients.

Shapes: B local rows, G rows of all W ranks, in the order of the ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bridgetower_train.collectives import all_gather_single, reduce_scatter_single

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block nothing is gathered: each rank is the only one of a run of its own."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world_size() -> int:
    """Ranks of the run; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() and not _alone else 0


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_B: Tensor) -> Tensor:
        x_G = x_B.new_empty(world_size() * len(x_B), *x_B.shape[1:])
        all_gather_single(x_G, x_B.contiguous())
        return x_G

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_G = grads[0].contiguous()
        grad_B = grad_G.new_empty(len(grad_G) // world_size(), *grad_G.shape[1:])
        reduce_scatter_single(grad_B, grad_G)
        return grad_B


def all_gather(x_B: Tensor) -> Tensor:
    """(B, ...) on each rank -> (G, ...), the same on all; the gradient of a rank's rows is summed over all ranks' losses."""
    if world_size() == 1:
        return x_B
    gathered: Tensor = _AllGather.apply(x_B)  # type: ignore[no-untyped-call]
    return gathered
