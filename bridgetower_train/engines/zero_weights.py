"""Which weights ZeRO-3 gathers together, and how many at a time."""

import importlib
from dataclasses import dataclass

from torch import nn

from bridgetower_train.engines.deepspeed_import import internal
from bridgetower_train.model.attention import Linear
from bridgetower_train.model.bridgetower import blocks
from bridgetower_train.model.vision import SelfAttention
from bridgetower_train.tasks import Task


@dataclass(frozen=True)
class Zero3Settings:
    """Numbers of elements, by which DeepSpeed decides what to gather and what to keep."""

    persistent: int
    """A weight of at most this size is never sharded."""
    reuse: int
    """A weight is kept if it is used again before this many others."""
    prefetch: int
    """How many to prefetch with each module."""
    live: int
    """Nothing is prefetched beyond this many gathered ones: without a limit the whole model would be gathered."""

    @staticmethod
    def of(parameters: int) -> "Zero3Settings":
        """In proportion to the model: biases and norms are not sharded; of the rest, about one block is gathered at a time."""
        return Zero3Settings(parameters // 10_000, parameters // 64, parameters // 64, parameters // 16)


def leaves(task: Task) -> list[nn.Module]:
    """The modules whose weights are gathered and released as a whole: all transformer blocks except the fusion's last.

    That one may be called twice, and DeepSpeed takes the gradients of such a module for complete after its first backward pass.
    """
    trunk = task.model.bridgetower
    last = (trunk.cross_modal_text_layers[-1], trunk.cross_modal_image_layers[-1])
    return [block for block in blocks(task) if block not in last]


def release_weights(task: Task) -> None:
    """Let products release their weights after the forward pass: F.linear keeps a view of each, and so what was gathered.

    Under autocast it keeps a copy in bf16 instead, which the plan counts.
    """
    product = internal(importlib.import_module("deepspeed.runtime.zero.linear"), "zero3_linear_wrap")
    for part in task.modules():
        if isinstance(part, (Linear, SelfAttention)) and part.product is Linear.product:
            part.product = product
