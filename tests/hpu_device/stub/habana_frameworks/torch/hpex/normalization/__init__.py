"""Clipping in one kernel: hpex/normalization/FusedClipNorm.py@5a56187."""

from habana_frameworks.torch import _emulation
from habana_frameworks.torch.core import step_closure

import torch


class FusedClipNorm:
    """To a global L2 norm."""

    def __init__(self, parameters, max_norm):
        self.max_norm = max_norm
        self.max_norm_t = (torch.ones(1) * max_norm).to(torch.device("hpu"))

    def clip_norm(self, parameters):
        """The norm before, on the device."""
        step_closure._mark_step_if_lazy()
        grads = [p.grad for p in parameters if p.grad is not None]
        on_host = [_emulation.device.host(g) for g in grads]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in on_host]))
        for g in on_host:
            g.mul_((self.max_norm / (norm + 1e-6)).clamp(max=1.0))
        _emulation.device.note(f"fused_norm {[tuple(g.shape) for g in grads]}")
        total = torch.empty(1, device="hpu")
        _emulation.device.host(total).copy_(norm)
        step_closure._mark_step_if_lazy()
        return total
