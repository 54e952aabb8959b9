"""DeepSpeed ZeRO: shards optimizer state (stage 1), gradients too (2) and parameters too (3) across ranks; 0 shards nothing.

Weights are fp32, and bf16 is by autocast as in the native engine, not by DeepSpeed's bf16 mode, which would compute norms and
sum gradients in bf16. So every stage computes what the native engine does, and their checkpoints are interchangeable.
The gradient norm, clipping and the skipping of non-finite updates are done here too, on the device: DeepSpeed's own wait for the
host, and differ between its versions.
"""

import importlib
from bisect import bisect
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bridgetower_train.config import EngineConfig, OptimConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.base import MOMENTS, OPTIMIZER, WEIGHTS, Engine, Files, read_slots, snapshot_shapes
from bridgetower_train.engines.deepspeed_import import TESTED, import_deepspeed, internal
from bridgetower_train.engines.host import HostCopies
from bridgetower_train.engines.partition import FlatPartition
from bridgetower_train.engines.reduction import BUCKETS, check_reduction
from bridgetower_train.engines.tensor_file import Read, shared_tensors
from bridgetower_train.engines.zero_weights import Zero3Settings, leaves, release_weights
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.rendezvous import stay_on_this_host
from bridgetower_train.tasks.base import Across, Embedded, Metrics, Task, whole

ZERO_BUCKET = 100_000_000
"""Most gradients that are reduced in one collective."""


class ZeroEngine(Engine):
    """See Engine. Wraps the task in DeepSpeed's engine."""

    def __init__(
        self,
        stage: int,
        task: Task,
        device: Device,
        ranks: Ranks,
        config: OptimConfig,
        graphs: int = 1,
        accumulates: bool = False,
        parallel: EngineConfig = BUCKETS,
    ) -> None:
        """`stage` of ZeRO; the other arguments are as in NativeEngine."""
        check_device(device, stage)
        check_reduction(f"zero{stage}", parallel, device)
        self.deepspeed = import_deepspeed(device, f"zero{stage}")
        if not dist.is_initialized():  # DeepSpeed needs a group even for a single process
            stay_on_this_host()
            dist.init_process_group(device.backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        super().__init__(task, device, ranks, config)
        self.stage = stage
        self._shapes = {name: p.shape for name, p in task.model.named_parameters()}
        self._full_task = _without_weights(task) if stage == 3 else task
        self._trained: list[list[nn.Parameter]] = [list(group["params"]) for group in self.optimizer.param_groups]
        if stage == 3:
            for leaf in leaves(task):
                self.deepspeed.utils.set_z3_leaf_module(leaf, True)
            if device.config.precision == "fp32":
                release_weights(task)
        self.engine, *_ = self.deepspeed.initialize(
            model=Autocast(task, device),
            optimizer=self.optimizer,
            config=settings(
                stage, self.parameter_count, device, parallel.reduce_precision if ranks.world_size > 1 else "fp32"
            ),
        )
        self._partitioned = self._partition() if stage else []
        self._host = HostCopies(device)
        self._embedding_trace: Any = None
        if stage == 3:
            self._embedding_trace = copy(internal(self.engine.optimizer.parameter_offload, "param_coordinator"))
            internal(self._embedding_trace, "_clear_trace_structures")()  # the two share what they hold no longer

    def _partition(self) -> list[tuple[dict[str, Any], Tensor, FlatPartition]]:
        """(group, this rank's flat tensor of weights, partition) of each group, with an optimizer state of zeros."""
        groups = self.optimizer.param_groups
        if self.stage == 3:
            flats = self.engine.optimizer.fp32_partitioned_groups_flat
        else:
            flats = [group["params"][0] for group in groups]
        self.optimizer.state.clear()  # some optimizers create one for the original parameters
        partitioned = []
        for group, flat in zip(groups, flats, strict=True):
            shapes = [self._shapes[name] for name in group["names"]]
            partition = FlatPartition(group["names"], shapes, len(flat), self.ranks.world_size, self.stage == 3)
            self._check_layout(flat, partition)
            zeros = {"step": torch.zeros(()), **{key: torch.zeros_like(flat) for key in MOMENTS}}
            self.device.load_optimizer_state(self.optimizer, group, flat, zeros)
            partitioned.append((group, flat, partition))
        return partitioned

    def _check_layout(self, flat: Tensor, partition: FlatPartition) -> None:
        """UserError if this version of DeepSpeed lays out parameters differently, which would corrupt every checkpoint."""
        parameters: dict[str, Any] = dict(self.task.model.named_parameters())
        for name, _, slices in partition.slices():
            for s in slices:
                if s.rank == self.ranks.rank:
                    parameter, kept = parameters[name], flat[s.at : s.at + s.count]
                    expected = parameter.ds_tensor if self.stage == 3 else parameter.detach().flatten()[s.start :]
                    if not torch.equal(expected[: s.count], kept):
                        raise UserError(
                            f"DeepSpeed {self.deepspeed.__version__} partitions parameters in a way that engine=zero{self.stage} "
                            f"does not support ({name}); install a version from 0.16 to {TESTED}, or use engine=native"
                        )

    def embed(self, batch: Batch) -> tuple[Embedded, dict[str, Tensor]]:
        with torch.no_grad(), self._own_trace(), self.stopwatch.alone():
            embedded: tuple[Embedded, dict[str, Tensor]] = self.engine.module(batch)
        self.device.mark_step()
        return embedded

    @contextmanager
    def _own_trace(self) -> Iterator[None]:
        """ZeRO-3 fetches weights ahead in the order in which it saw the modules; inside the block it learns and uses another.

        With one for both passes it would forget it in each step, and compare the new one between the ranks.
        """
        if self._embedding_trace is None:
            yield
            return
        offload = self.engine.optimizer.parameter_offload
        offload.param_coordinator, kept = self._embedding_trace, offload.param_coordinator
        try:
            yield
        finally:
            offload.param_coordinator = kept

    def forward_backward(self, batch: Batch, totals: Tensor, across: Across, last: bool) -> Metrics:
        self.engine.set_gradient_accumulation_boundary(last)
        with self.stopwatch.alone():
            outputs = self.engine(batch, totals)
        loss, metrics = whole(outputs, across)
        # See NativeEngine: a non-finite loss shows in the gradient norm of all ranks.
        self.engine.backward(loss * torch.where(torch.isfinite(loss), 1.0, torch.nan), scale_wrt_gas=False)
        self.device.mark_step()
        return metrics

    def step(self, limit: Tensor | None = None, by_layer: bool = False) -> Metrics:
        gradients = self._gradients()
        self._stay_inside()
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.stage:
            square = norm.square()
            dist.all_reduce(square)
            norm = square.sqrt()
        updated = self._watch(partitioned=self.stage > 0) if by_layer else dict
        skipped = self.device.clip_or_skip(self.optimizer, gradients, norm, self.config.clip_norm, limit)
        self.engine.step()
        return {"grad_norm": norm, "skipped": skipped, **updated()}

    def _gradients(self) -> list[Tensor]:
        """The gradients averaged over the ranks: this rank's part, or all of them if they are not partitioned."""
        if self.stage == 0:
            return [p.grad for group in self._trained for p in group if p.grad is not None]
        return [gradient for group in self.engine.optimizer.averaged_gradients.values() for gradient in group]

    def _parts(self, names: Collection[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, elements, their gradient) of parameters, those that this rank updates."""
        if self.stage == 0:
            yield from super()._parts(names)
            return
        averaged = self.engine.optimizer.averaged_gradients
        for number, (_, flat, partition) in enumerate(self._partitioned):
            gradients = averaged[number]  # together they are laid out as `flat`
            ends = list(accumulate(gradient.numel() for gradient in gradients))
            own = ((name, s) for name, _, found in partition.slices() if name in names for s in found)
            for name, s in ((name, s) for name, s in own if s.rank == self.ranks.rank):
                begin, last = s.at, s.at + s.count
                for gradient, end in islice(zip(gradients, ends, strict=True), bisect(ends, begin), None):
                    if begin == last:
                        break
                    until, start = min(last, end), end - gradient.numel()
                    yield name, flat.detach()[begin:until], gradient.view(-1)[begin - start : until - start]
                    begin = until

    def preallocate(self) -> None:
        if self.ranks.is_main:
            trained = (name for group in self.optimizer.param_groups for name in group["names"])
            self._host.preallocate(snapshot_shapes(self._shapes, trained))

    def snapshot(self) -> Files:
        """See Engine: partitioned tensors are gathered, one group at a time."""
        return self._on_main(WEIGHTS, self._full_weights()) | self._on_main(OPTIMIZER, self._full_slots())

    def _on_main(self, file: str, tensors: Iterable[tuple[str, Tensor]]) -> Files:
        if self.ranks.is_main:
            return {file: self._host.copy(tensors)}
        for _ in tensors:  # takes part in the collectives
            pass
        return {}

    def _full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name, full tensor) of all weights; collective."""
        if self.stage < 3:
            yield from self.task.model.state_dict().items()
            return
        for _, flat, partition in self._partitioned:
            yield from partition.gather(flat)
        for name, parameter in self.task.model.named_parameters():
            if not parameter.requires_grad:
                with self.deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter.detach().clone()

    def _full_slots(self) -> Iterator[tuple[str, Tensor]]:
        """(parameter's name.slot, full tensor) of the whole optimizer state; collective."""
        for group, name, parameter in self._unpartitioned():
            slots = self.device.optimizer_state(self.optimizer, group, parameter)
            yield from ((f"{name}.{key}", value) for key, value in slots.items())
        for group, flat, partition in self._partitioned:
            slots = self.device.optimizer_state(self.optimizer, group, flat)
            yield from ((f"{name}.step", slots["step"]) for name in group["names"])
            for key in MOMENTS:
                yield from ((f"{name}.{key}", value) for name, value in partition.gather(slots[key]))

    def load(self, folder: Path) -> None:
        with shared_tensors(folder / WEIGHTS, self.ranks) as read:
            self._load_weights(read)
        with shared_tensors(folder / OPTIMIZER, self.ranks) as read:
            self._load_slots(read)

    def _load_weights(self, read: Read) -> None:
        parameter: Any  # under ZeRO-3 it has methods of DeepSpeed's
        for name, parameter in self.task.model.named_parameters():
            if self.stage == 3:
                parameter.all_gather(param_list=[parameter])
            parameter.data.copy_(read(name, self._shapes[name]))
            if self.stage == 3:
                parameter.partition(param_list=[parameter], has_been_updated=True)
        if self.stage:
            self.engine.optimizer.refresh_fp32_params()

    def _load_slots(self, read: Read) -> None:
        for group, name, parameter in self._unpartitioned():
            slots = read_slots(read, name, parameter.shape)
            self.device.load_optimizer_state(self.optimizer, group, parameter, slots)
        for group, flat, partition in self._partitioned:
            steps = [read(f"{name}.step", torch.Size(())) for name in group["names"]]
            slots = {"step": steps[0]}
            for key in MOMENTS:
                slots[key] = partition.part(self.ranks.rank, lambda name, shape, key=key: read(f"{name}.{key}", shape))  # type: ignore[misc]
            self.device.load_optimizer_state(self.optimizer, group, flat, slots)

    def _unpartitioned(self) -> Iterator[tuple[dict[str, Any], str, nn.Parameter]]:
        """(group, name, parameter) of all trained parameters under stage 0; nothing under the others."""
        if self.stage:
            return
        for group, parameters in zip(self.optimizer.param_groups, self._trained, strict=True):
            for name, parameter in zip(group["names"], parameters, strict=True):
                yield group, name, parameter

    @contextmanager
    def full_params(self) -> Iterator[Task]:
        """See Engine: under ZeRO-3 a copy, which has weights inside the block only."""
        if self.stage < 3:
            yield self.task
            return
        self._full_task.to_empty(device=self.device.torch_device)
        parameters = dict(self._full_task.model.named_parameters())
        with torch.no_grad():
            for name, weight in self._full_weights():
                parameters[name].copy_(weight)
        try:
            yield self._full_task
        finally:
            self._full_task.to("meta")


class Autocast(nn.Module):
    """Runs the task under autocast, without `totals` its `embed`: DeepSpeed disables an autocast outside its engine."""

    def __init__(self, task: Task, device: Device) -> None:
        super().__init__()
        self.task, self.autocast = task, device.autocast

    def forward(self, batch: Batch, totals: Tensor | None = None) -> Any:
        with self.autocast():
            return self.task.embed(batch) if totals is None else self.task(batch, totals)


def check_device(device: Device, stage: int) -> None:
    """ConfigError if `device` is configured in a way that DeepSpeed's hooks do not support."""
    if device.config.graphs:
        raise ConfigError(f"device.graphs=true: not supported by engine=zero{stage}; remove it, or use engine=native")
    if stage == 3 and device.execution == "compile":
        raise ConfigError(
            "device.execution=compile: engine=zero3 frees the weights of a block after its forward pass, and what a compiled "
            "block keeps for its backward pass may hold them; use engine=zero2, or device.execution=eager"
        )


def bucket_size(parameters: int) -> int:
    """Gradients per bucket of DeepSpeed's."""
    return min(parameters, ZERO_BUCKET)


def settings(stage: int, parameters: int, device: Device, reduce_precision: str = "fp32") -> dict[str, Any]:
    """DeepSpeed's configuration: sizes in proportion to the model, and what the device's vendor requires."""
    zero3 = Zero3Settings.of(parameters)
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket_size(parameters),
        # Reduce each gradient to the rank that owns it, at half the cost of an all-reduce.
        "use_multi_rank_bucket_allreduce": False,
        "stage3_param_persistence_threshold": zero3.persistent,
        "stage3_max_reuse_distance": zero3.reuse,
        "stage3_prefetch_bucket_size": zero3.prefetch,
        "stage3_max_live_parameters": zero3.live,
        "sub_group_size": 2**62,
        **device.zero_settings(stage),
    }
    if stage in (1, 2):
        known = importlib.import_module("deepspeed.runtime.zero.config").DeepSpeedZeroConfig.model_fields
        if "compute_grad_norm" in known:  # `step` computes it
            zero["compute_grad_norm"] = False
    return {
        "train_micro_batch_size_per_gpu": 1,  # used only by DeepSpeed's log
        "gradient_accumulation_steps": 1,  # `forward_backward` says which micro-batch is the last
        "gradient_clipping": 0.0,
        "communication_data_type": reduce_precision,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
        "zero_optimization": zero,
    }


def _without_weights(task: Task) -> Task:
    """A copy of `task` whose parameters are on the meta device."""
    return deepcopy(task, {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in task.parameters()})
