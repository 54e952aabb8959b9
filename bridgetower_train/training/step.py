"""The gradients of one step, from its micro-batches.

Where samples that a loss compares are in several micro-batches of a rank, a step takes two passes over them. The first, without
gradients, embeds all. From the embeddings of all ranks follow that loss and its gradient for each embedding. The second computes
everything again, and sends those gradients on into the model (Gao et al., "Scaling deep contrastive learning batch size under
memory limited setup", 2021). Both draw the same random numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from bridgetower_train.data.batch import Batch
from bridgetower_train.engines import Engine
from bridgetower_train.tasks import Contrast
from bridgetower_train.tasks.base import Across, Embedded, Metrics
from bridgetower_train.training.guards import UpdateGuard


def count(engine: Engine, batches: Sequence[Batch]) -> Tensor:
    """What the means of a step over these micro-batches of a rank divide by: `Task.counts` of those of all ranks."""
    totals = torch.stack([engine.task.counts(batch) for batch in batches]).sum(0)
    if engine.ranks.world_size > 1:
        dist.all_reduce(totals)
    engine.device.mark_step()
    return totals


def backward(
    engine: Engine,
    batches: Sequence[Batch],
    contrast: Contrast,
    seed: Callable[[int], None],
    totals: Tensor | None = None,
) -> Metrics:
    """The metrics of a step over these micro-batches of a rank; its gradients are in the engine.

    `seed` is called with the number of each micro-batch before each of its passes. `totals` are counted if they are not given.
    Nothing in it waits for the device.
    """
    if totals is None:
        totals = count(engine, batches)
    across: Sequence[Across] = [partial(engine.task.across, totals=totals, among=contrast.among)] * len(batches)
    if contrast.two_passes:
        batches, across = _first_pass(engine, batches, totals, contrast.among, seed)
    parts: list[Metrics] = []
    for number, batch in enumerate(batches):
        seed(number)
        parts.append(engine.forward_backward(batch, totals, across[number], last=number == len(batches) - 1))
    # Only now, or each micro-batch's graph would have the sums of those before it.
    return {name: sum((part[name] for part in parts[1:]), value) for name, value in parts[0].items()}


def update(engine: Engine, guard: UpdateGuard, by_layer: bool = False) -> Metrics:
    """The update by the gradients in the engine, which `guard` may skip, and counts. Returns what `Engine.step` does."""
    metrics = engine.step(guard.limit, by_layer)
    guard.record(metrics["skipped"], metrics["grad_norm"])
    engine.device.mark_step()
    return metrics


@dataclass(frozen=True)
class _Known:
    """What the loss over all micro-batches is to one of them, as an Across."""

    loss: Tensor
    """This micro-batch's share."""
    metrics: Metrics
    gradients: Embedded

    def __call__(self, embedded: Embedded) -> tuple[Tensor, Metrics]:
        """The value is the true one, the gradient that of the whole loss for what this micro-batch embedded."""
        sent = torch.stack([(embedded[name] * gradient).sum() for name, gradient in self.gradients.items()]).sum()
        return self.loss + (sent - sent.detach()), self.metrics


def _first_pass(
    engine: Engine, batches: Sequence[Batch], totals: Tensor, among: int, seed: Callable[[int], None]
) -> tuple[list[Batch], list[Across]]:
    """(the micro-batches with what the first pass drew, the loss that compares samples as each of them sees it)."""
    embedded, drawn = [], []
    for number, batch in enumerate(batches):
        seed(number)
        own, labels = engine.embed(batch)
        embedded.append(own)
        drawn.append(replace(batch, labels=batch.labels | labels))
    rows = {name: torch.cat([own[name] for own in embedded]) for name in embedded[0]}
    leaves = {name: x.requires_grad_() for name, x in rows.items() if x.is_floating_point()}
    loss, metrics = engine.task.across(rows, totals, among)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    parts = {
        name: gradient.chunk(len(batches))
        for name, gradient in zip(leaves, gradients, strict=True)
        if gradient is not None
    }
    engine.device.mark_step()
    share = 1 / len(batches)
    known: list[Across] = [
        _Known(
            loss.detach() * share,
            {name: value * share for name, value in metrics.items()},
            {name: part[number] for name, part in parts.items()},
        )
        for number in range(len(batches))
    ]
    return drawn, known
