"""ZeRO on DeepSpeed: optimizer state (1), gradients too (2), weights too (3) divided among the ranks; 0 divides nothing.

Weights are fp32, and bf16 comes by autocast, as in the native engine, rather than by DeepSpeed's bf16 mode, which would compute
norms and sum gradients in bf16: so every stage computes what the native engine does, and their checkpoints are one another's.
Gradients are measured, clipped and, where they are not finite, left out here too, on the device: what DeepSpeed does instead
waits for the host, and differs between its versions.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bridgetower_train.config import OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.base import (
    MOMENTS,
    OPTIMIZER,
    WEIGHTS,
    Engine,
    Files,
    Metrics,
    read_slots,
    snapshot_shapes,
)
from bridgetower_train.engines.deepspeed_import import import_deepspeed
from bridgetower_train.engines.host import HostCopies
from bridgetower_train.engines.optim import parameter_groups
from bridgetower_train.engines.partition import FlatPartition
from bridgetower_train.engines.tensor_file import Read, shared_tensors
from bridgetower_train.engines.zero_weights import Zero3Settings, leaves
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.tasks import Task

ZERO_BUCKET = 100_000_000
"""Gradients, at most, that are sent in one piece."""
TESTED = "0.19.8"
"""The newest version of DeepSpeed that this was tested with."""


class ZeroEngine(Engine):
    """See Engine. DeepSpeed's engine around the task."""

    def __init__(
        self,
        stage: int,
        task: Task,
        device: Device,
        ranks: Ranks,
        config: OptimConfig,
        graphs: int = 1,
        accumulates: bool = False,
    ) -> None:
        """`stage` is that of ZeRO; the other arguments are the native engine's."""
        check_device(device, stage)
        self.deepspeed = import_deepspeed(device, f"zero{stage}")
        if not dist.is_initialized():  # a single process: DeepSpeed wants a group all the same
            dist.init_process_group(device.backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        self.stage, self.task, self.device, self.ranks, self.config = stage, task, device, ranks, config
        self.parameter_count = sum(p.numel() for p in task.parameters())
        self._shapes = {name: p.shape for name, p in task.model.named_parameters()}
        self._spare = _without_weights(task) if stage == 3 else task
        self.optimizer = device.adamw(parameter_groups(task.model.named_parameters(), config), config)
        self._trained: list[list[nn.Parameter]] = [list(group["params"]) for group in self.optimizer.param_groups]
        if stage == 3:
            for leaf in leaves(task):
                self.deepspeed.utils.set_z3_leaf_module(leaf, True)
        self.engine, *_ = self.deepspeed.initialize(
            model=Autocast(device.compile(task), device.autocast),
            optimizer=self.optimizer,
            config=settings(stage, self.parameter_count, device),
        )
        self._flats = self._divided() if stage else []
        self._host = HostCopies(device)

    def _divided(self) -> list[tuple[dict[str, Any], Tensor, FlatPartition]]:
        """(group, this rank's flat tensor of weights, its layout) of each group, with an optimizer state of zeros."""
        groups = self.optimizer.param_groups
        if self.stage == 3:
            flats = self.engine.optimizer.fp32_partitioned_groups_flat
        else:
            flats = [group["params"][0] for group in groups]
        self.optimizer.state.clear()  # some optimizers make one for the undivided parameters
        divided = []
        for group, flat in zip(groups, flats, strict=True):
            shapes = [self._shapes[name] for name in group["names"]]
            shards = FlatPartition(group["names"], shapes, len(flat), self.ranks.world_size, self.stage == 3)
            self._check_layout(flat, shards)
            zeros = {"step": torch.zeros(()), **{key: torch.zeros_like(flat) for key in MOMENTS}}
            self.device.load_optimizer_state(self.optimizer, group, flat, zeros)
            divided.append((group, flat, shards))
        return divided

    def _check_layout(self, flat: Tensor, shards: FlatPartition) -> None:
        """UserError where this version of DeepSpeed keeps its parameters in another order, which would spoil every checkpoint."""
        parameters: dict[str, Any] = dict(self.task.model.named_parameters())
        for name, _, places in shards.places():
            for place in places:
                if place.rank == self.ranks.rank:
                    parameter, kept = parameters[name], flat[place.at : place.at + place.count]
                    whole = parameter.ds_tensor if self.stage == 3 else parameter.detach().flatten()[place.start :]
                    if not torch.equal(whole[: place.count], kept):
                        raise UserError(
                            f"DeepSpeed {self.deepspeed.__version__} divides parameters in a way that engine=zero{self.stage} "
                            f"does not know ({name}); install one from 0.16 to {TESTED}, or take engine=native"
                        )

    def forward_backward(self, batch: Batch, totals: Tensor, last: bool) -> Metrics:
        """See Engine."""
        self.engine.set_gradient_accumulation_boundary(last)
        loss: Tensor
        metrics: Metrics
        loss, metrics = self.engine(batch, totals)
        # See NativeEngine: the norm of the gradients tells all ranks of a loss that is not finite.
        self.engine.backward(loss * torch.where(torch.isfinite(loss), 1.0, torch.nan), scale_wrt_gas=False)
        self.device.mark_step()
        return metrics

    def step(self) -> Metrics:
        """See Engine."""
        gradients = self._gradients()
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.stage:
            square = norm.square()
            dist.all_reduce(square)
            norm = square.sqrt()
        if self.config.clip_norm:
            # A factor of NaN would stay for good in what fills up the divided gradients, and is never written again.
            factor = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0).nan_to_num(0.0)
            for gradient in gradients:
                gradient.mul_(factor)
        skipped = 1.0 - torch.isfinite(norm).float()
        self.device.skip_update(self.optimizer, gradients, skipped)
        self.engine.step()
        return {"grad_norm": norm, "skipped": skipped}

    def _gradients(self) -> list[Tensor]:
        """Averaged over the ranks: this rank's part of them, or all of them where none are divided."""
        if self.stage == 0:
            return [p.grad for group in self._trained for p in group if p.grad is not None]
        return [gradient for group in self.engine.optimizer.averaged_gradients.values() for gradient in group]

    def preallocate(self) -> None:
        """See Engine."""
        if self.ranks.is_main:
            trained = (name for group in self.optimizer.param_groups for name in group["names"])
            self._host.preallocate(snapshot_shapes(self._shapes, trained))

    def snapshot(self) -> Files:
        """See Engine: what is divided is gathered, one group at a time."""
        return self._on_main(WEIGHTS, self._whole_weights()) | self._on_main(OPTIMIZER, self._whole_slots())

    def _on_main(self, file: str, tensors: Iterable[tuple[str, Tensor]]) -> Files:
        if self.ranks.is_main:
            return {file: self._host.copy(tensors)}
        for _ in tensors:  # takes part in the gathering
            pass
        return {}

    def _whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of all weights; collective."""
        if self.stage < 3:
            yield from self.task.model.state_dict().items()
            return
        for _, flat, shards in self._flats:
            yield from shards.whole(flat)
        for name, parameter in self.task.model.named_parameters():
            if not parameter.requires_grad:
                with self.deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.detach().clone()

    def _whole_slots(self) -> Iterator[tuple[str, Tensor]]:
        """(parameter's name.slot, full tensor) of the whole optimizer state; collective."""
        for group, name, parameter in self._undivided():
            slots = self.device.optimizer_state(self.optimizer, group, parameter)
            yield from ((f"{name}.{key}", value) for key, value in slots.items())
        for group, flat, shards in self._flats:
            slots = self.device.optimizer_state(self.optimizer, group, flat)
            yield from ((f"{name}.step", slots["step"]) for name in group["names"])
            for key in MOMENTS:
                yield from ((f"{name}.{key}", value) for name, value in shards.whole(slots[key]))

    def load(self, folder: Path) -> None:
        """See Engine."""
        with shared_tensors(folder / WEIGHTS, self.ranks) as read:
            self._load_weights(read)
        with shared_tensors(folder / OPTIMIZER, self.ranks) as read:
            self._load_slots(read)

    def _load_weights(self, read: Read) -> None:
        parameter: Any  # under ZeRO-3 with methods of DeepSpeed's
        for name, parameter in self.task.model.named_parameters():
            if self.stage == 3:
                parameter.all_gather(param_list=[parameter])
            parameter.data.copy_(read(name, self._shapes[name]))
            if self.stage == 3:
                parameter.partition(param_list=[parameter], has_been_updated=True)
        if self.stage:
            self.engine.optimizer.refresh_fp32_params()

    def _load_slots(self, read: Read) -> None:
        for group, name, parameter in self._undivided():
            slots = read_slots(read, name, parameter.shape)
            self.device.load_optimizer_state(self.optimizer, group, parameter, slots)
        for group, flat, shards in self._flats:
            steps = [read(f"{name}.step", torch.Size(())) for name in group["names"]]
            slots = {"step": steps[0]}
            for key in MOMENTS:
                slots[key] = shards.part(self.ranks.rank, lambda name, shape, key=key: read(f"{name}.{key}", shape))  # type: ignore[misc]
            self.device.load_optimizer_state(self.optimizer, group, flat, slots)

    def _undivided(self) -> Iterator[tuple[dict[str, Any], str, nn.Parameter]]:
        """(group, name, parameter) of all that is trained, under stage 0."""
        if self.stage:
            return
        for group, parameters in zip(self.optimizer.param_groups, self._trained, strict=True):
            for name, parameter in zip(group["names"], parameters, strict=True):
                yield group, name, parameter

    @contextmanager
    def full_params(self) -> Iterator[Task]:
        """See Engine: under ZeRO-3 a copy, which holds its weights as long as the block runs."""
        if self.stage < 3:
            yield self.task
            return
        self._spare.to_empty(device=self.device.torch_device)
        places = dict(self._spare.model.named_parameters())
        with torch.no_grad():
            for name, weight in self._whole_weights():
                places[name].copy_(weight)
        try:
            yield self._spare
        finally:
            self._spare.to("meta")


class Autocast(nn.Module):
    """The task under autocast: DeepSpeed switches off one that it is called under."""

    def __init__(self, task: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.task, self.autocast = task, autocast

    def forward(self, batch: Batch, totals: Tensor) -> tuple[Tensor, Metrics]:
        """See Task."""
        with self.autocast():
            loss, metrics = self.task(batch, totals)
        return loss, metrics


def check_device(device: Device, stage: int) -> None:
    """ConfigError where `device` is to run in a way that DeepSpeed's hooks do not go with."""
    if device.config.graphs:
        raise ConfigError(
            f"device.graphs=true: engine=zero{stage} records no graphs; leave it out, or take engine=native"
        )
    if stage == 3 and device.execution == "compile":
        raise ConfigError(
            "device.execution=compile: engine=zero3 is not compiled; take zero2, or device.execution=eager"
        )


def bucket_size(parameters: int) -> int:
    """Gradients that DeepSpeed's bucket holds."""
    return min(parameters, ZERO_BUCKET)


def settings(stage: int, parameters: int, device: Device) -> dict[str, Any]:
    """DeepSpeed's configuration: sizes in proportion to the model, and what the device's vendor asks for."""
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket_size(parameters),
        # Each gradient goes to the rank that keeps it, at half the cost of a sum that every rank gets.
        "use_multi_rank_bucket_allreduce": False,
        **Zero3Settings.of(parameters).settings(),
        "sub_group_size": 2**62,
        **device.zero_settings(stage),
    }
    if stage in (1, 2):
        known = importlib.import_module("deepspeed.runtime.zero.config").DeepSpeedZeroConfig.model_fields
        if "compute_grad_norm" in known:  # `step` has computed it
            zero["compute_grad_norm"] = False
    return {
        "train_micro_batch_size_per_gpu": 1,  # counted by DeepSpeed's log alone
        "gradient_accumulation_steps": 1,  # `forward_backward` says which micro-batch is the last
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
        "zero_optimization": zero,
    }


def _without_weights(task: Task) -> Task:
    """A copy of `task` whose parameters hold nothing."""
    return deepcopy(task, {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in task.parameters()})
