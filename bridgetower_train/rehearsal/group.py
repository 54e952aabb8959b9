"""A process group with only one real rank.

Torch's own (`torch.testing._internal.distributed.fake_pg`) sums nothing, so means over all ranks are wrong, and it returns no
gradients to DistributedDataParallel. Here all other ranks are assumed to have the tensors of this one: a sum is its own tensor
times `world_size`, a gather that many copies. Every collective is counted with its bytes.
"""

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore, _create_work_from_future  # type: ignore[attr-defined]
from torch.futures import Future

from bridgetower_train.devices import Device
from bridgetower_train.distributed import Ranks
from bridgetower_train.engines.deepspeed_import import import_deepspeed

BACKEND = "rehearsed"
_PACKAGE = Path(__file__).parents[1]
_NAMING = ("collectives.py", "distributed.py")

Tensors = list[Tensor]


class CallSite(NamedTuple):
    """A kind of collective, and where it is called."""

    phase: str
    """Part of the run."""
    between: str
    """`cards` or `hosts`."""
    kind: str
    """`all_reduce`, `reduce`, `all_gather`, `reduce_scatter`, `broadcast` or `barrier`."""
    caller: str
    """File and function of this package."""


@dataclass
class Traffic:
    """Number of calls, and bytes of the whole tensors: those reduced or broadcast, gathered, or before scattering."""

    count: int = 0
    bytes: int = 0


@dataclass
class Log:
    """The collectives of a rehearsal."""

    phase: str = "start"
    """The part of the run that collectives are counted under from now on."""
    traffic: dict[CallSite, Traffic] = field(default_factory=dict)

    def add(self, kind: str, tensors: Iterable[Tensor], between: str) -> None:
        """Count one collective."""
        entry = self.traffic.setdefault(CallSite(self.phase, between, kind, _caller()), Traffic())
        entry.count += 1
        entry.bytes += sum(t.numel() * t.element_size() for t in tensors)


class RehearsedGroup(dist.ProcessGroup):
    """See the top of this file."""

    def __init__(self, rank: int, size: int, log: Log, between: str) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]
        self._rank, self._size, self._log, self._between = rank, size, log, between

    def getBackendName(self) -> str:  # noqa: N802  torch's name, as all below
        return BACKEND

    def allreduce(self, tensors: Tensors, opts: Any = None, kind: str = "all_reduce") -> dist.Work:  # type: ignore[override]
        """A sum is `size` times the tensor; mean, maximum and minimum are the tensor itself."""
        self._log.add(kind, tensors, self._between)
        if opts is None or opts.reduceOp == dist.ReduceOp.SUM:
            with torch.no_grad():
                for tensor in tensors:
                    tensor.mul_(self._size)
        return _done(tensors)

    allreduce_coalesced = allreduce

    def reduce(self, tensors: Tensors, opts: Any = None) -> dist.Work:  # type: ignore[override]
        """Like an all-reduce: ranks other than the destination do not read it."""
        return self.allreduce(tensors, opts, "reduce")

    def broadcast(self, tensors: Tensors, opts: Any = None) -> dist.Work:  # type: ignore[override]
        """The tensors stay unchanged."""
        self._log.add("broadcast", tensors, self._between)
        return _done(tensors)

    def allgather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> dist.Work:  # type: ignore[override]
        """As many copies as there are ranks."""
        self._log.add("all_gather", [t for part in outputs for t in part], self._between)
        with torch.no_grad():
            for part, own in zip(outputs, inputs, strict=True):
                for output in part:
                    output.copy_(own)
        return _done(outputs)

    def allgather_into_tensor_coalesced(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> dist.Work:  # type: ignore[override]
        """The same, into contiguous tensors."""
        self._log.add("all_gather", outputs, self._between)
        with torch.no_grad():
            for output, own in zip(outputs, inputs, strict=True):
                output.view(self._size, -1).copy_(own.reshape(1, -1).expand(self._size, -1))
        return _done(outputs)

    def _allgather_base(self, output: Tensor, own: Tensor, opts: Any = None) -> dist.Work:  # type: ignore[override]
        return self.allgather_into_tensor_coalesced([output], [own])

    all_gather_single = _allgather_base  # type: ignore[assignment]  # torch 2.13's name

    def reduce_scatter_tensor_coalesced(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> dist.Work:  # type: ignore[override]
        """This rank's part; for a sum, times the number of ranks."""
        self._log.add("reduce_scatter", inputs, self._between)
        factor = self._size if opts is None or opts.reduceOp == dist.ReduceOp.SUM else 1
        with torch.no_grad():
            for output, whole in zip(outputs, inputs, strict=True):
                output.view(-1).copy_(whole.reshape(self._size, -1)[self._rank]).mul_(factor)
        return _done(outputs)

    def _reduce_scatter_base(self, output: Tensor, whole: Tensor, opts: Any = None) -> dist.Work:  # type: ignore[override]
        return self.reduce_scatter_tensor_coalesced([output], [whole], opts)

    reduce_scatter_single = _reduce_scatter_base  # type: ignore[assignment]

    def barrier(self, opts: Any = None) -> dist.Work:  # type: ignore[override]
        """Returns at once."""
        self._log.add("barrier", [], self._between)
        return _done(None)


def join(rank: int, world_size: int) -> tuple[Ranks, Log]:
    """Become `rank` of `world_size` ranks without the others; leave by `distributed.shut_down`."""
    log = Log()

    def create(between: str, store: Any, rank: int, size: int, timeout: Any) -> RehearsedGroup:
        return RehearsedGroup(rank, size, log, between)

    for name, between in ((BACKEND, "cards"), (f"{BACKEND}_host", "hosts")):
        dist.Backend.register_backend(name, partial(create, between), devices=["cpu"])
    dist.init_process_group(BACKEND, store=HashStore(), rank=rank, world_size=world_size)
    return Ranks(rank, world_size, dist.new_group(backend=f"{BACKEND}_host")), log


def agree_for_deepspeed(device: Device) -> None:
    """Turn off ZeRO-3's comparison of the order of its modules with that of rank 0, which does not exist here."""
    import_deepspeed(device, "zero3")
    coordinator: Any = importlib.import_module("deepspeed.runtime.zero.partitioned_param_coordinator")
    coordinator.assert_ints_same_as_other_ranks = lambda numbers: None


def _done(result: Any) -> dist.Work:
    future: Future[Any] = Future()
    future.set_result(result)
    work: dist.Work = _create_work_from_future(future)
    return work


def _caller() -> str:
    """The innermost function of this package on the stack, except those of the rehearsal and those that name collectives."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE) and path.name not in _NAMING and path.parent != Path(__file__).parent:
            return f"{path.relative_to(_PACKAGE)} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"
