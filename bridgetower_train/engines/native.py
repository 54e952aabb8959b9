"""The native engine: one process, or DistributedDataParallel. fp32 weights, the device's autocast."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bridgetower_train.config import EngineConfig, OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.base import OPTIMIZER, WEIGHTS, Engine, Files, read_slots, snapshot_shapes
from bridgetower_train.engines.host import HostCopies
from bridgetower_train.engines.reduction import BUCKETS, average, average_bucket_in_bf16, check_reduction
from bridgetower_train.engines.tensor_file import Read, shared_tensors
from bridgetower_train.tasks.base import Across, Embedded, Metrics, Task, whole


class NativeEngine(Engine):
    """See Engine. Every rank has all weights; rank 0 writes them."""

    def __init__(
        self,
        task: Task,
        device: Device,
        ranks: Ranks,
        config: OptimConfig,
        graphs: int = 1,
        accumulates: bool = False,
        parallel: EngineConfig = BUCKETS,
    ) -> None:
        """Batches will have `graphs` different shapes; if it `accumulates`, a step has several micro-batches."""
        check_reduction("native", parallel, device)
        super().__init__(task, device, ranks, config)
        self.parallel = parallel
        self.parameters: list[nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]
        module = device.capture_graphs(task, graphs, accumulates)
        self._reduces_once = ranks.world_size > 1 and parallel.reduce == "once"
        if self._reduces_once:
            for tensor in task.state_dict().values():  # as DistributedDataParallel does
                dist.broadcast(tensor, src=0)
        elif ranks.world_size > 1:
            module = DistributedDataParallel(module, **device.ddp_kwargs)
            _settle_buckets(module)
            if parallel.reduce_precision == "bf16":
                module.register_comm_hook(None, average_bucket_in_bf16)
        self.module = module
        self._micro_batch = 0
        self._host = HostCopies(device)

    def embed(self, batch: Batch) -> tuple[Embedded, dict[str, Tensor]]:
        with torch.no_grad(), self.device.autocast(), self.stopwatch.alone():
            embedded = self.task.embed(batch)
        self.device.mark_step()
        return embedded

    def forward_backward(self, batch: Batch, totals: Tensor, across: Across, last: bool) -> Metrics:
        self.device.begin_micro_batch(self._micro_batch)
        self._micro_batch = 0 if last else self._micro_batch + 1
        with self._reduce_gradients(last):
            with self.device.autocast():
                with self.stopwatch.alone():
                    outputs = self.module(batch, totals)
                loss, metrics = whole(outputs, across)
            # A non-finite loss makes its gradients NaN, and through their sum those of all ranks: so the gradient norm
            # is enough for all ranks to skip the update.
            (loss * torch.where(torch.isfinite(loss), 1.0, torch.nan)).backward()
        if last and self._reduces_once:
            average(self._gradients(), self.parallel.reduce_precision)
        self.device.mark_step()
        return metrics

    def _reduce_gradients(self, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def step(self, limit: Tensor | None = None, by_layer: bool = False) -> Metrics:
        self._stay_inside()
        gradients = self._gradients()
        norm = torch.nn.utils.get_total_norm(gradients)
        updated = self._watch() if by_layer else dict
        skipped = self.device.clip_or_skip(self.optimizer, gradients, norm, self.config.clip_norm, limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"grad_norm": norm, "skipped": skipped, **updated()}

    def preallocate(self) -> None:
        if self.ranks.is_main:
            weights = {name: parameter.shape for name, parameter in self.task.model.named_parameters()}
            self._host.preallocate(snapshot_shapes(weights, (name for _, name, _ in self._named())))

    def snapshot(self) -> Files:
        if not self.ranks.is_main:
            return {}
        slots = (
            (f"{name}.{key}", value)
            for group, name, p in self._named()
            for key, value in self.device.optimizer_state(self.optimizer, group, p).items()
        )
        weights = self.task.model.state_dict().items()
        return {WEIGHTS: self._host.copy(weights), OPTIMIZER: self._host.copy(slots)}

    def load(self, folder: Path) -> None:
        with shared_tensors(folder / WEIGHTS, self.ranks) as read, torch.no_grad():
            for name, parameter in self.task.model.named_parameters():
                parameter.copy_(read(name, parameter.shape))
        with shared_tensors(folder / OPTIMIZER, self.ranks) as read:
            self._load_slots(read)

    def _load_slots(self, read: Read) -> None:
        for group, name, parameter in self._named():
            slots = read_slots(read, name, parameter.shape)
            self.device.load_optimizer_state(self.optimizer, group, parameter, slots)

    def _named(self) -> Iterator[tuple[dict[str, Any], str, nn.Parameter]]:
        """(group, name, parameter) of all trained parameters."""
        for group in self.optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                yield group, name, parameter


class _Zero(nn.Module):
    """A loss of zero, whose gradients are ready in the order of DistributedDataParallel's initial buckets."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.trained = parameters  # in a list they are not registered

    def forward(self) -> Tensor:
        return torch.stack([0.0 * parameter.sum() for parameter in self.trained]).sum()


def _settle_buckets(module: DistributedDataParallel) -> None:
    """Make DistributedDataParallel rebuild its buckets before the first step.

    It does so after the first backward pass of a process, and a gradient's bucket decides in which order more than two ranks
    are summed. Otherwise the first step after a resume would differ in bits from the same step of an uninterrupted run.
    """
    task, module.module = module.module, _Zero([p for p in module.parameters() if p.requires_grad])
    module().backward()
    module.module = task
    module.zero_grad()
