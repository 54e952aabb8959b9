"""What the training loop asks of an engine: forward and backward, update, save, load."""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor

from bridgetower_train.data.batch import Batch
from bridgetower_train.objectives.joint import JointTask

Metrics = dict[str, Tensor]
"""Device scalars by name."""


class Engine(ABC):
    """Model, optimizer and ranks as one thing."""

    task: JointTask
    """The model with its losses, unwrapped."""

    @abstractmethod
    def forward_backward(self, batch: Batch, totals: Tensor, last: bool) -> Metrics:
        """Losses and gradients of one micro-batch; on the `last` one of a step the ranks' gradients are averaged."""

    @abstractmethod
    def step(self, lr_factor: float) -> Metrics:
        """One update at `lr_factor` of the peak rates, skipped on the device where the gradient is not finite.

        Returns `grad_norm` (before clipping) and `skipped` (0 or 1).
        """

    @property
    @abstractmethod
    def checkpoint_bytes(self) -> int:
        """Size of what `save` writes, over all ranks."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights (Hugging Face's names) and optimizer state into `folder`. Called on every rank."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
