"""Parameter groups and the learning-rate schedule."""

import math
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from bridgetower_train.config import OptimConfig
from bridgetower_train.model.parts import Part, part_of


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> list[dict[str, object]]:
    """Groups for AdamW by learning rate and weight decay, with the parameters' `names`; without those that are frozen.

    The towers and the type embeddings train at `optim.lr`, the former lower in lower blocks by `optim.layer_decay`, the fusion
    encoder at `optim.lr_fusion`, modules beside the trunk at `optim.lr_heads`, and single parameters there, such as the
    temperature, at `optim.lr_scale`.

    Vectors and scalars (biases, norms, class token, temperature) and position tables have no weight decay. Microsoft's code
    lists them by name, but misses CLIP's names and so decays those.
    """
    named = list(named)
    parts = {name: part_of(name) for name, _ in named}
    blocks = {
        tower: max(part.depth or 0 for part in parts.values() if part.name == tower) for tower in ("image", "text")
    }
    groups: dict[tuple[str, float, bool], dict[str, list[object]]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        kind, rate = _rate(name, parts[name], blocks, config)
        decayed = parameter.ndim >= 2 and "position_embedding" not in name
        group = groups.setdefault((kind, rate, decayed), {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return [
        {**group, "initial_lr": rate, "lr": rate, "weight_decay": config.weight_decay * decayed}
        for (_, rate, decayed), group in groups.items()
    ]


def _rate(name: str, part: Part, blocks: dict[str, int], config: OptimConfig) -> tuple[str, float]:
    """(kind, peak learning rate) of a parameter; `blocks` is the number of those of each tower."""
    if part.name == "heads" and "." in name:
        return "head", config.lr_heads
    if part.name == "heads":
        return "tower", config.lr if config.lr_scale is None else config.lr_scale
    if part.name == "fusion" and "token_type_embeddings" not in name:
        return "fusion", config.lr_fusion
    below_top = 0 if part.depth is None else blocks[part.name] - part.depth
    return "tower", config.lr * config.layer_decay**below_top


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rates of the next update to `factor` times the peak learning rates."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def stay_inside(weight: Tensor, gradient: Tensor, bounds: tuple[float, float]) -> None:
    """Set `gradient` to zero where `weight` is at or beyond a bound and an update would lead further out."""
    low, high = bounds
    # An update goes against the gradient.
    outward = ((weight >= high) & (gradient < 0)) | ((weight <= low) & (gradient > 0))
    gradient.masked_fill_(outward, 0.0)


class Schedule:
    """Linear warm-up, then linear or cosine decay to zero at the last step, none, or a linear one over the last `decay_steps`."""

    def __init__(self, decay: str, warmup_steps: int, total_steps: int, decay_steps: int = 0) -> None:
        """`decay` and `decay_steps` are `optim.schedule` and `optim.decay`."""
        self.decay, self.warmup_steps, self.total_steps, self.decay_steps = (
            decay,
            warmup_steps,
            total_steps,
            decay_steps,
        )

    def factor(self, step: int) -> float:
        """Fraction of the peak learning rate for update number `step` (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "wsd":
            return min(1.0, (self.total_steps - step) / max(1, self.decay_steps))
        left = (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps)
        if self.decay == "linear":
            return left
        return 0.5 * (1 + math.cos(math.pi * (1 - left))) if self.decay == "cosine" else 1.0
