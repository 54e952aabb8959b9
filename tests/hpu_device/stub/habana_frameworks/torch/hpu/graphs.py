"""HPU graphs for training, which only lazy mode captures: hpu/graphs.py@5a56187 and @bcc5172."""

import inspect

from habana_frameworks.torch import _emulation

import torch
from torch.nn.parallel import DistributedDataParallel


def input_hash(obj):
    """Tensors by their shapes, anything else by its value."""
    if isinstance(obj, dict):
        return input_hash(tuple(obj.items()))
    if isinstance(obj, (list, tuple)):
        return hash(tuple(map(input_hash, obj)))
    return hash(tuple(obj.shape)) if torch.is_tensor(obj) else hash(obj)


def tensors(obj):
    """The tensors in nested dicts, lists and tuples."""
    if torch.is_tensor(obj):
        return [obj]
    parts = obj.values() if isinstance(obj, dict) else obj if isinstance(obj, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


class ModuleCacher:
    """One graph for each combination of input shapes; its outputs stay where the first run left them."""

    def __init__(self, max_graphs=10):
        self.max_graphs = max_graphs
        self.outputs = {}
        self.iteration = 0

    def __call__(
        self, model, use_lfu=False, inplace=True, allow_unused_input=False, asynchronous=False,
        have_grad_accumulation=False, log_frequency=100, verbose=False, disable_tensor_cache=False, dry_run=False,
    ):  # fmt: skip
        assert not isinstance(model, DistributedDataParallel), "Use DistributedDataParallel only after wrapping"
        assert inplace, "the stub wraps in place"
        kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
        assert inspect.Parameter.VAR_POSITIONAL not in kinds, "Unsupported argument type"
        self.model, self.forward, self.accumulates = model, model.forward, have_grad_accumulation
        self.allow_unused = allow_unused_input
        model.forward = self._forward
        model.set_iteration_count = self._set_iteration_count
        _emulation.record("ModuleCacher", max_graphs=self.max_graphs, have_grad_accumulation=have_grad_accumulation)
        return model

    def _set_iteration_count(self, iteration):
        self.iteration = iteration

    def _forward(self, *args):
        if not (_emulation.LAZY and self.model.training and torch.is_grad_enabled()):
            return self.forward(*args)
        key = input_hash(args)
        if self.accumulates and self.iteration == 0:
            key = input_hash((key, 1))
        known = key in self.outputs
        if not known and len(self.outputs) == self.max_graphs:
            _emulation.record("graph_uncached")
            return self.forward(*args)
        hooks = [m for m in self.model.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
        assert known or not hooks, "Modules must not have hooks registered"
        if not known:
            self._capture(args)
        result = self.forward(*args)
        _emulation.record("graph_replay" if known else "graph_capture")
        self.outputs.setdefault(key, tensors(result))
        # A replay writes where the outputs of the first run are: whoever still holds those sees the new values.
        with torch.no_grad():
            for old, new in zip(self.outputs[key], tensors(result), strict=True):
                if old.data_ptr() != new.data_ptr():  # not a view of a parameter
                    _emulation.device.host(old.detach()).copy_(_emulation.device.host(new.detach()))
        return result

    def _capture(self, args):
        """Forward and backward pass, each in a graph of its own; what may not be in one is refused."""
        state = torch.get_rng_state()
        _emulation.device.flush()
        try:
            _emulation.device.capture(True)
            outputs = [out for out in tensors(self.forward(*args)) if out.requires_grad]
            trained = [t for t in (*tensors(args), *self.model.parameters()) if t.requires_grad]
            torch.autograd.grad(outputs, trained, list(map(torch.empty_like, outputs)), allow_unused=self.allow_unused)
        finally:
            _emulation.device.capture(False)
        _emulation.device.flush()
        torch.set_rng_state(state)
