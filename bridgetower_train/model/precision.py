"""Helpers for computations that need float32 even under autocast."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in float32; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which operations on the device of `x` keep the precision of their inputs."""
    return torch.autocast(x.device.type, enabled=False)
