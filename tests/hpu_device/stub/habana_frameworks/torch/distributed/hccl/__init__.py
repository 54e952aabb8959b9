"""The backend `hccl`: gloo on the device's host memory, with the vendor's limits."""

import functools
import os

from habana_frameworks.torch import _emulation

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future
from torch.futures import Future

if "LOCAL_RANK" in os.environ:
    os.environ.setdefault("HLS_MODULE_ID", os.environ["LOCAL_RANK"])

_host = _emulation.device.host
_KNOWN = (dist.ReduceOp.SUM, dist.ReduceOp.MIN, dist.ReduceOp.MAX, dist.ReduceOp.PRODUCT)


def _check(kind, op=None):
    if op is not None and not any(op == known for known in _KNOWN):
        raise RuntimeError("Unsupported ReduceOp for HCCL process group")
    from habana_frameworks.torch import hpu

    if _emulation.LAZY:
        hpu.graphs.check_collective()
        _emulation.device.flush()
    _emulation.record(kind)


def _done(tensors):
    future = Future()
    future.set_result(tensors)
    return _create_work_from_future(future)


class ProcessGroupHCCL(dist.ProcessGroup):
    """Does each collective at once."""

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(dist.PrefixStore("hccl", store), rank, size, timeout)

    def getBackendName(self):  # noqa: N802
        """As registered."""
        return "hccl"

    def _set_group_name(self, name):
        self._name = name

    @property
    def group_name(self):
        """What torch called it; torch's own property asks the parts of a group, which this one does not have."""
        return self._name

    @torch.compiler.disable  # the vendor's is C++
    def allreduce(self, tensors, opts=None):
        """SUM, MIN, MAX or PRODUCT."""
        opts = opts or dist.AllreduceOptions()
        _check("allreduce", opts.reduceOp)
        self._gloo.allreduce([_host(t) for t in tensors], opts).wait()
        return _done(tensors)

    @torch.compiler.disable  # the vendor's is C++
    def allgather(self, outputs, inputs, opts=None):
        """Of tensors of one size."""
        _check("allgather")
        self._gloo.allgather([[_host(t) for t in part] for part in outputs], [_host(t) for t in inputs]).wait()
        return _done(outputs)

    @torch.compiler.disable  # the vendor's is C++
    def broadcast(self, tensors, opts):
        """From the root that `opts` names."""
        _check("broadcast")
        self._gloo.broadcast([_host(t) for t in tensors], opts).wait()
        return _done(tensors)

    @torch.compiler.disable  # the vendor's is C++
    def barrier(self, opts=None):
        """All ranks."""
        self._gloo.barrier().wait()
        return _done([])


def _create(store, rank, size, timeout):
    return ProcessGroupHCCL(store, rank, size, timeout)


dist.Backend.register_backend("hccl", _create, devices=["hpu"])

_init_process_group, _new_group = dist.init_process_group, dist.new_group


@functools.wraps(_init_process_group)
def init_process_group(
    backend=None, init_method=None, timeout=None, world_size=-1, rank=-1, store=None, group_name="", pg_options=None
):
    """Knows no device_id."""
    _emulation.record("init_process_group", backend=backend)
    _init_process_group(backend, init_method, timeout, world_size, rank, store, group_name, pg_options)


@functools.wraps(_new_group)
def new_group(ranks=None, timeout=None, backend=None, pg_options=None):
    """Knows no device_id, no group_desc."""
    return _new_group(ranks, timeout, backend, pg_options)


dist.init_process_group = torch.distributed.init_process_group = init_process_group
dist.new_group = torch.distributed.new_group = new_group
