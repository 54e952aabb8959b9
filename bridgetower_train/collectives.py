"""Collectives over single tensors, under the names of torch 2.13; before it they had others.

With a list of outputs instead, some backends copy each of them.

Shapes: B rows of this rank, G rows of all ranks, in their order.
"""

from typing import Any

import torch.distributed as dist
from torch import Tensor

_dist: Any = dist


def all_gather_single(x_G: Tensor, x_B: Tensor) -> None:
    """Fill `x_G` with the rows of all ranks."""
    gather = getattr(_dist, "all_gather_single", None) or _dist.all_gather_into_tensor
    gather(x_G, x_B)


def reduce_scatter_single(x_B: Tensor, x_G: Tensor) -> None:
    """Fill `x_B` with this rank's rows of `x_G`, summed over the ranks."""
    scatter = getattr(_dist, "reduce_scatter_single", None) or _dist.reduce_scatter_tensor
    scatter(x_B, x_G)
