"""Parameter groups and the learning-rate schedule."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from bridgetower_train.config import OptimConfig

TRUNK, FUSION = "bridgetower.", "bridgetower.cross_modal_"
"""Prefixes of the trunk's parameters, and of the fusion encoder's among them."""


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> list[dict[str, object]]:
    """Groups for AdamW by learning rate (tower, fusion, head) and weight decay, with the parameters' `names`.

    The fusion encoder trains at `optim.lr_fusion`, modules beside the trunk at `optim.lr_heads`, and the rest, including type
    embeddings and single parameters such as the temperature, at `optim.lr`.

    Vectors and scalars (biases, norms, class token, temperature) and position tables have no weight decay. Microsoft's code
    lists them by name, but misses CLIP's names and so decays those.
    """
    rates = {"tower": config.lr, "fusion": config.lr_fusion, "head": config.lr_heads}
    groups: dict[tuple[str, bool], dict[str, list[object]]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        part = "fusion" if name.startswith(FUSION) else "tower"
        if not name.startswith(TRUNK) and "." in name:
            part = "head"
        decayed = parameter.ndim >= 2 and "position_embedding" not in name
        group = groups.setdefault((part, decayed), {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return [
        {**group, "initial_lr": rates[part], "lr": rates[part], "weight_decay": config.weight_decay * decayed}
        for (part, decayed), group in groups.items()
    ]


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rates of the next update to `factor` times the peak learning rates."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class Schedule:
    """Linear warm-up, then linear or cosine decay to zero at the last step, or none."""

    def __init__(self, decay: str, warmup_steps: int, total_steps: int) -> None:
        self.decay, self.warmup_steps, self.total_steps = decay, warmup_steps, total_steps

    def factor(self, step: int) -> float:
        """Fraction of the peak learning rate for update number `step` (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        left = (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps)
        if self.decay == "linear":
            return left
        return 0.5 * (1 + math.cos(math.pi * (1 - left))) if self.decay == "cosine" else 1.0
