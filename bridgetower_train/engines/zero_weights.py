"""Which weights come and go together under ZeRO-3, and how many of them are there at a time."""

from dataclasses import dataclass

from torch import nn

from bridgetower_train.model.bridgetower import blocks
from bridgetower_train.tasks import Task


@dataclass(frozen=True)
class Zero3Settings:
    """Numbers of elements, by which DeepSpeed decides what to fetch and what to keep."""

    persistent: int
    """A weight of at most so many is never divided."""
    reuse: int
    """A weight stays where it is used again before so many others are."""
    prefetch: int
    """How many to fetch ahead with each module."""
    live: int
    """How many may be there for any to be fetched ahead: without a limit the look-ahead would gather the whole model."""

    @staticmethod
    def of(parameters: int) -> "Zero3Settings":
        """In proportion to the model: biases and norms stay whole; of the rest, about a block's is kept and fetched at a time."""
        return Zero3Settings(parameters // 10_000, parameters // 64, parameters // 64, parameters // 16)

    def settings(self) -> dict[str, int]:
        """DeepSpeed's names for them."""
        return {
            "stage3_param_persistence_threshold": self.persistent,
            "stage3_max_reuse_distance": self.reuse,
            "stage3_prefetch_bucket_size": self.prefetch,
            "stage3_max_live_parameters": self.live,
        }


def leaves(task: Task) -> list[nn.Module]:
    """The modules whose weights come and go together: the transformer blocks, but for the fusion's last.

    That one may be called twice, and DeepSpeed takes such a module's gradients to be complete after one backward pass.
    """
    trunk = task.model.bridgetower
    last = (trunk.cross_modal_text_layers[-1], trunk.cross_modal_image_layers[-1])
    return [block for block in blocks(task) if block not in last]
