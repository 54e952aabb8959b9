"""What the training loop asks of an engine: forward and backward, update, save, load."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from bridgetower_train.data.batch import Batch
from bridgetower_train.engines.tensor_file import Read
from bridgetower_train.tasks import Task

Metrics = dict[str, Tensor]
"""Device scalars by name."""

Files = dict[str, dict[str, Tensor]]
"""Host tensors by name, by the path of the safetensors file that they belong in."""

WEIGHTS = "model.safetensors"
"""Full fp32 weights under Hugging Face's names, from every engine."""
OPTIMIZER = "optimizer/state.safetensors"
"""`{parameter}.step`, `.exp_avg` and `.exp_avg_sq`, full tensors, from every engine."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Slots of the optimizer that are as large as the parameter."""


class Engine(ABC):
    """Model, optimizer and ranks as one thing."""

    task: Task
    """The model with its losses, unwrapped; its weights may be divided among the ranks (see `full_params`)."""
    optimizer: torch.optim.Optimizer
    """Its groups carry `lr` and `initial_lr` (see training.optim)."""
    parameter_count: int
    """Of the whole model."""

    @abstractmethod
    def forward_backward(self, batch: Batch, totals: Tensor, last: bool) -> Metrics:
        """Losses and gradients of one micro-batch; on the `last` one of a step the ranks' gradients are averaged."""

    @abstractmethod
    def step(self) -> Metrics:
        """One update at the optimizer's rates, skipped on the device where the gradient is not finite.

        Returns `grad_norm` (before clipping) and `skipped` (0 or 1).
        """

    @contextmanager
    def full_params(self) -> Iterator[Task]:
        """The task with all weights on every rank, to evaluate it while the block runs. Entered on every rank."""
        yield self.task

    @abstractmethod
    def preallocate(self) -> None:
        """Start to take the memory of a snapshot, in the background, so that the first one waits for no more than later ones."""

    @abstractmethod
    def snapshot(self) -> Files:
        """Host copies of WEIGHTS and OPTIMIZER on rank 0, nothing on the others. Called on every rank at the same step.

        Training does not change them: they may be written while it goes on. They hold until the next snapshot.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take over the files of a snapshot, whichever engine and number of ranks it is from.

        Called on every rank; rank 0 alone reads. Raises CheckpointError on all where it cannot.
        """


def read_slots(read: Read, name: str, shape: torch.Size) -> dict[str, Tensor]:
    """The optimizer's state of one parameter, from OPTIMIZER."""
    return {"step": read(f"{name}.step", torch.Size(()))} | {key: read(f"{name}.{key}", shape) for key in MOMENTS}


def snapshot_shapes(weights: dict[str, torch.Size], trained: Iterable[str]) -> dict[str, torch.Size]:
    """The shapes of all tensors of a snapshot, from those of the weights and the names of the trained ones."""
    shapes = dict(weights)
    for name in trained:
        shapes |= {f"{name}.step": torch.Size(()), **{f"{name}.{key}": weights[name] for key in MOMENTS}}
    return shapes
