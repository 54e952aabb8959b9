"""Parameter groups and the learning-rate schedule of the recipe."""

import math
from collections.abc import Iterable

from torch import nn

from bridgetower_train.config import OptimConfig

HEADS = ("mlm_score", "itm_score", "itc_text_head", "itc_image_head", "itc_cross_modal_head")
"""Modules that train at `optim.lr_heads`."""

FUSION = "bridgetower.cross_modal_"
"""Prefix of what trains at `optim.lr_fusion`; the rest, type embeddings and temperature included, trains at `optim.lr`."""


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> list[dict[str, object]]:
    """Groups for AdamW by learning rate (tower, fusion, head) and weight decay; `names` keeps each parameter's name.

    Vectors and scalars (biases, norms, class token, temperature) and position tables are not decayed. Microsoft's list of
    names misses CLIP's and so decays them there; the intent is the same.
    """
    rates = {"tower": config.lr, "fusion": config.lr_fusion, "head": config.lr_heads}
    groups: dict[tuple[str, bool], dict[str, list[object]]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith(HEADS) else "fusion" if name.startswith(FUSION) else "tower"
        decayed = parameter.ndim >= 2 and "position_embedding" not in name
        group = groups.setdefault((part, decayed), {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return [
        {
            **group,
            "part": part,
            "initial_lr": rates[part],
            "lr": rates[part],
            "weight_decay": config.weight_decay * decayed,
        }
        for (part, decayed), group in groups.items()
    ]


class Schedule:
    """Linear warm-up, then linear or cosine decay to zero at the last step, or no decay."""

    def __init__(self, shape: str, warmup_steps: int, total_steps: int) -> None:
        self.shape, self.warmup_steps, self.total_steps = shape, warmup_steps, total_steps

    def factor(self, step: int) -> float:
        """Share of the peak learning rate that the update number `step` (from 0) takes."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        left = (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps)
        if self.shape == "linear":
            return left
        return 0.5 * (1 + math.cos(math.pi * (1 - left))) if self.shape == "cosine" else 1.0
