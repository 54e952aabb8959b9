"""Norms of weights, gradients and updates by layer."""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from bridgetower_train.model.parts import layer_of
from bridgetower_train.tasks.base import Metrics


def watch_update(
    parts: Iterable[tuple[str, Tensor, Tensor]], layers: list[str], partitioned: bool
) -> Callable[[], Metrics]:
    """To be called before an update; what it returns, after it: `weight_norm/LAYER`, `grad_norm/LAYER` and `update_norm/LAYER`.

    `parts`: (name, elements, their gradient) of the parameters that this rank updates. If these are `partitioned` over the ranks,
    it is a collective, and the norms are those of whole layers. Device scalars; until then the weights are held twice.
    """
    weights: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    gradients: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for name, weight, gradient in parts:
        weights[layer_of(name)].append(weight)
        gradients[layer_of(name)].append(gradient)
    squares = {f"grad_norm/{layer}": _square(part) for layer, part in gradients.items()}
    before = {layer: [weight.clone() for weight in part] for layer, part in weights.items()}

    def updated() -> Metrics:
        for layer, part in weights.items():
            squares[f"weight_norm/{layer}"] = _square(part)
            for was, weight in zip(before[layer], part, strict=True):
                was.sub_(weight)
            squares[f"update_norm/{layer}"] = _square(before[layer])
        device = next(weight.device for part in weights.values() for weight in part)
        sums = torch.stack([square.to(device) for square in squares.values()])
        if partitioned:
            dist.all_reduce(sums)
        return dict(zip(squares, sums.sqrt().unbind(), strict=True))

    return updated


def _square(tensors: list[Tensor]) -> Tensor:
    """The square of their common norm."""
    return torch.stack([t.norm().square() for t in tensors]).sum() if tensors else torch.zeros(())
