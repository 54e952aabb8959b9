"""The interface of an engine to the training loop: forward and backward pass, update, save, load."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from bridgetower_train.config import OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.layers import watch_update
from bridgetower_train.engines.optim import parameter_groups, stay_inside
from bridgetower_train.engines.stopwatch import Stopwatch
from bridgetower_train.engines.tensor_file import Read, shared_tensors
from bridgetower_train.model.parts import layer_of
from bridgetower_train.tasks.base import Across, Embedded, Metrics, Task

Files = dict[str, dict[str, Tensor]]
"""Path of a safetensors file -> its host tensors by name."""

WEIGHTS = "model.safetensors"
"""Full fp32 weights under Hugging Face's names, whatever the engine."""
OPTIMIZER = "optimizer/state.safetensors"
"""`{parameter}.step`, `.exp_avg` and `.exp_avg_sq` as full tensors, whatever the engine."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""The optimizer's state tensors that have the parameter's shape."""


class Engine(ABC):
    """Trains a task with an optimizer on all ranks."""

    task: Task
    """The model with its losses, unwrapped; its weights may be sharded across ranks (see `full_params`)."""
    device: Device
    ranks: Ranks
    optimizer: torch.optim.Optimizer
    """Its groups have `lr` and `initial_lr` (see engines.optim)."""
    parameter_count: int
    """Parameters of the whole model."""
    trained_count: int
    """Those that are not frozen."""
    stopwatch: Stopwatch
    """Of what this rank does before it meets the others: forward passes, in which only ZeRO-3 waits for them."""

    def __init__(self, task: Task, device: Device, ranks: Ranks, config: OptimConfig) -> None:
        self.task, self.device, self.ranks, self.config = task, device, ranks, config
        self.stopwatch = Stopwatch(device)
        self.parameter_count = sum(p.numel() for p in task.parameters())
        self.trained_count = sum(p.numel() for p in task.parameters() if p.requires_grad)
        self.optimizer = device.adamw(parameter_groups(task.model.named_parameters(), config), config)

    @abstractmethod
    def embed(self, batch: Batch) -> tuple[Embedded, dict[str, Tensor]]:
        """`Task.embed` of a micro-batch, without gradients."""

    @abstractmethod
    def forward_backward(self, batch: Batch, totals: Tensor, across: Across, last: bool) -> Metrics:
        """Metrics and gradients of one micro-batch; gradients are averaged over the ranks on the `last` one of a step."""

    @abstractmethod
    def step(self, limit: Tensor | None = None, by_layer: bool = False) -> Metrics:
        """One update at the optimizer's learning rates.

        It is skipped, on the device, if the gradient is not finite, or its norm beyond `limit`, a device scalar. Returns
        `grad_norm` (before clipping) and `skipped` (0 or 1), and what `layers.watch_update` gives if it is `by_layer`.
        """

    def _stay_inside(self) -> None:
        """Keep the coming update from leading a parameter out of its range (Task.bounds), once its gradient is whole."""
        bounds = self.task.bounds()
        for name, weight, gradient in self._parts(bounds):
            stay_inside(weight, gradient, bounds[name])

    def _watch(self, partitioned: bool = False) -> Callable[[], Metrics]:
        """See `layers.watch_update`; of all trained parameters."""
        names = [name for group in self.optimizer.param_groups for name in group["names"]]
        return watch_update(self._parts(names), list(dict.fromkeys(map(layer_of, names))), partitioned)

    def _parts(self, names: Collection[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, elements, their gradient) of parameters, those that this rank updates: all, unless they are partitioned."""
        for name in names:
            weight = self.task.model.get_parameter(name)
            if weight.grad is not None:
                yield name, weight.detach(), weight.grad

    @contextmanager
    def full_params(self) -> Iterator[Task]:
        """The task with full weights on every rank, for evaluation inside the block. Collective: entered on every rank."""
        yield self.task

    @abstractmethod
    def preallocate(self) -> None:
        """Start to allocate a snapshot's memory in the background, so that the first snapshot takes no longer than later ones."""

    @abstractmethod
    def snapshot(self) -> Files:
        """Host copies of WEIGHTS and OPTIMIZER on rank 0, nothing on the others. Called on every rank at the same step.

        Training does not change them, so they may be written in the background. They are valid until the next snapshot.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Load the files of a snapshot, from any engine and any number of ranks.

        Called on every rank; only rank 0 reads. Raises CheckpointError on all ranks if that fails.
        """

    def load_optimizer(self, folder: Path, fresh: Collection[str], step: float) -> None:
        """Load the optimizer's state of another run's snapshot, in which only the parameters `fresh` are missing.

        Theirs is zero, but for the number of updates, `step`, which is the same for all: ZeRO keeps one for many parameters.
        Called on every rank; raises CheckpointError on all of them if the file cannot be read.
        """
        with shared_tensors(folder / OPTIMIZER, self.ranks, some=True) as read:

            def read_or_zero(name: str, shape: torch.Size) -> Tensor:
                parameter, _, slot = name.rpartition(".")
                if parameter not in fresh:
                    return read(name, shape)
                return torch.full(shape, step if slot == "step" else 0.0)

            self._load_slots(read_or_zero)

    @abstractmethod
    def _load_slots(self, read: Read) -> None:
        """Load the optimizer's state of all trained parameters."""


def read_slots(read: Read, name: str, shape: torch.Size) -> dict[str, Tensor]:
    """The optimizer's state of one parameter, from OPTIMIZER."""
    return {"step": read(f"{name}.step", torch.Size(()))} | {key: read(f"{name}.{key}", shape) for key in MOMENTS}


def snapshot_shapes(weights: dict[str, torch.Size], trained: Iterable[str]) -> dict[str, torch.Size]:
    """The shapes of all tensors of a snapshot, from the weights' shapes and the names of the trained ones."""
    shapes = dict(weights)
    for name in trained:
        shapes |= {f"{name}.step": torch.Size(()), **{f"{name}.{key}": weights[name] for key in MOMENTS}}
    return shapes
