"""The backend `hccl`: gloo on the device's host memory, with the vendor's limits.

From distributed/hccl/__init__.py, ProcessGroupHCCL.cpp and process_group_hccl_base.cpp@5a56187; core/torch_overwrites.py for the
two functions of torch.distributed that are replaced.
"""

import os
from datetime import timedelta

from habana_frameworks.torch import _emulation

import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future
from torch.futures import Future

if "LOCAL_RANK" in os.environ:
    os.environ.setdefault("HLS_MODULE_ID", os.environ["LOCAL_RANK"])

_host = _emulation.device.host
_KNOWN = (dist.ReduceOp.SUM, dist.ReduceOp.MIN, dist.ReduceOp.MAX, dist.ReduceOp.PRODUCT)
_NEVER = timedelta(days=30)
"""The group is made without the timeout that is asked for, and waiting ignores it."""


def _check(kind, op=None):
    if op is not None and not any(op == known for known in _KNOWN):
        raise RuntimeError("Unsupported ReduceOp for HCCL process group")
    if _emulation.device.capturing():
        # With PT_HPU_ENABLE_LAZY_COLLECTIVES too: it is documented for inference alone.
        raise RuntimeError("collective nonSFG is not supported during hpu graph capturing")
    if _emulation.LAZY:
        _emulation.device.flush()
    _emulation.record(kind)


def _done(tensors):
    future = Future()
    future.set_result(tensors)
    return _create_work_from_future(future)


class ProcessGroupHCCL(dist.ProcessGroup):
    """Does each collective at once."""

    def __init__(self, store, rank, size):
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(dist.PrefixStore("hccl", store), rank, size, _NEVER)

    def getBackendName(self):  # noqa: N802
        """As registered."""
        return "hccl"

    def allreduce(self, tensors, opts=None):
        """SUM, MIN, MAX or PRODUCT."""
        opts = opts or dist.AllreduceOptions()
        _check("allreduce", opts.reduceOp)
        self._gloo.allreduce([_host(t) for t in tensors], opts).wait()
        return _done(tensors)

    def allgather(self, outputs, inputs, opts=None):
        """Of tensors of one size, into one buffer, from which each output is then copied: a node for each."""
        _check("allgather")
        self._gloo.allgather([[_host(t) for t in part] for part in outputs], [_host(t) for t in inputs]).wait()
        for part in outputs:
            for number, output in enumerate(part):
                _emulation.device.note(f"allgather output {number} {tuple(output.shape)}")
        return _done(outputs)

    def _allgather_base(self, output, given, opts=None):
        """Into one tensor, without copies."""
        _check("allgather_base")
        parts = list(_host(output).view(self.size(), -1))
        self._gloo.allgather([parts], [_host(given).view(-1)]).wait()
        return _done([output])

    all_gather_single = _allgather_base  # torch 2.13's name

    def _reduce_scatter_base(self, output, given, opts=None):
        """From one tensor."""
        opts = opts or dist.ReduceScatterOptions()
        _check("reduce_scatter_base", opts.reduceOp)
        total, reduction = _host(given).clone(), dist.AllreduceOptions()
        reduction.reduceOp = opts.reduceOp
        self._gloo.allreduce([total], reduction).wait()
        _host(output).view(-1).copy_(total.view(self.size(), -1)[self.rank()])
        return _done([output])

    reduce_scatter_single = _reduce_scatter_base  # torch 2.13's name

    def broadcast(self, tensors, opts):
        """From the root that `opts` names."""
        _check("broadcast")
        self._gloo.broadcast([_host(t) for t in tensors], opts).wait()
        return _done(tensors)

    def barrier(self, opts=None):
        """All ranks."""
        self._gloo.barrier().wait()
        return _done([])


def _create(store, rank, size, timeout):
    return ProcessGroupHCCL(store, rank, size)


dist.Backend.register_backend("hccl", _create, devices=["hpu"])

_init_process_group, _new_group = dist.init_process_group, dist.new_group


def init_process_group(
    backend=None, init_method=None, timeout=None, world_size=-1, rank=-1, store=None, group_name="", pg_options=None,
    device_id=None,
):  # fmt: skip
    """@f186e3d and @bcc5172; @5a56187 knows no device_id."""
    _emulation.record("init_process_group", backend=backend)
    _init_process_group(backend, init_method, timeout, world_size, rank, store, group_name, pg_options)


def _new_group_of_1_21(ranks=None, timeout=None, backend=None, pg_options=None):
    """@f186e3d."""
    return _new_group(ranks, timeout, backend, pg_options)


def _new_group_of_1_24(
    ranks=None,
    timeout=None,
    backend=None,
    pg_options=None,
    use_local_synchronization=False,
    group_desc=None,
    device_id=None,
):
    """@bcc5172."""
    return _new_group(ranks, timeout, backend, pg_options, use_local_synchronization, group_desc)


dist.init_process_group = init_process_group
dist.new_group = _new_group_of_1_21 if _emulation.RELEASE == "1.21" else _new_group_of_1_24
