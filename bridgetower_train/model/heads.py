"""Heads: small modules that a task adds beside the trunk, and from which it computes its losses."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.attention import Linear
from bridgetower_train.model.precision import at_least_fp32, no_autocast


class Head(NamedTuple):
    """A row of a task's table of heads, from which model, initial weights, export and FLOPs are derived.

    A module trains at `optim.lr_heads`, a single parameter at `optim.lr`.
    """

    name: str
    """Attribute of the model, and so the first part of its parameters' names in a checkpoint."""
    build: Callable[[ModelConfig], nn.Module | nn.Parameter]
    """Creates it; the order of the heads decides which random numbers each is initialised from."""
    rows: float = 0.0
    """Vectors per sample that it is applied to."""
    exported_class: str | None = None
    """Class of transformers that uses it."""
    size_key: str | None = None
    """Configuration key for the number of its outputs."""
    last: str = "fc"
    """Its last layer."""


class Float32Linear(Linear):
    """A small linear layer in float32 or higher, even under autocast: its results go into a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            return F.linear(at_least_fp32(x), at_least_fp32(self.weight), at_least_fp32(self.bias))


class LinearHead(nn.Module):
    """One linear layer `fc`, for classes and embeddings."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = Float32Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out
