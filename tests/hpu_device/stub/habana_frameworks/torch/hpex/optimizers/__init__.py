"""AdamW in one kernel. Its defaults are not torch's, and it counts steps in the group.

From hpex/optimizers/FusedAdamW.py@5a56187 and @bcc5172, which agree.
"""

import math

from habana_frameworks.torch import _emulation
from habana_frameworks.torch.core import step_closure

import torch
from torch.optim import Optimizer


class FusedAdamW(Optimizer):
    """On the host memory of the device's tensors."""

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True, moments_dtype=None
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.bias_correction, self.moments_dtype = bias_correction, moments_dtype

    @torch.no_grad()
    def step(self, closure=None):
        """One update; an empty group is more than it can take."""
        for group in self.param_groups:
            step_closure._mark_step_if_lazy()
            assert group["params"], "FusedAdamW: a group without parameters"
            moved = [p for p in group["params"] if p.grad is not None]
            group["step"] = group.get("step", 0) + 1
            beta1, beta2 = group["betas"]
            step_size = group["lr"]
            if self.bias_correction:
                step_size *= math.sqrt(1 - beta2 ** group["step"]) / (1 - beta1 ** group["step"])
            decay = 1 - group["weight_decay"] * group["lr"]
            for p in moved:
                state = self.state[p]
                if not state:
                    zeros = torch.zeros_like(p, dtype=self.moments_dtype)
                    state.update(step=0, exp_avg=zeros, exp_avg_sq=zeros.clone())
                w, g, kept_m, kept_v = map(
                    _emulation.device.host, (p.data, p.grad, state["exp_avg"], state["exp_avg_sq"])
                )
                m, v = kept_m.to(w.dtype), kept_v.to(w.dtype)  # computed in the weights' type, and stored rounded
                m.mul_(beta1).add_(g, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                w.mul_(decay).addcdiv_(m, v.sqrt().add_(group["eps"]), value=-step_size)
                kept_m.copy_(m)
                kept_v.copy_(v)
                _emulation.device.note(f"optimizer_adamw {tuple(p.shape)} {group['eps']} {group['betas']}")
        step_closure._mark_step_if_lazy()
