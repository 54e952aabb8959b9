"""How long a step takes and what it holds: bounds from counted work, bytes and links, on paper.

Nothing here was measured on the hardware that it is about.
"""

from dataclasses import dataclass

from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.planning.hardware import Cluster
from bridgetower_train.planning.memory import Memory

GRADIENT_BYTES = 4
"""Gradients are summed over ranks in float32."""
WEIGHT_TRAFFIC = 46
"""Bytes of memory traffic per parameter and step: the bf16 copy (4 read, 2 written) and its use forward and backward (2 + 2),
the gradient (4 written, 4 read for its norm), AdamW (16 read, 12 written)."""
EMBEDDING_BYTES = 4


@dataclass(frozen=True)
class Step:
    """One optimizer step of `pairs` pairs a card, without accumulation. Times in seconds, memory in bytes per card."""

    pairs: int
    flops: float
    """Of one card."""
    memory: float
    memory_time: float
    """At least, for weights, optimizer and kept activations to pass between card and memory once."""
    reduce_time: float
    """At least, for the gradients and the contrast's embeddings over the links, nothing else using them."""

    def compute_time(self, achieved: float) -> float:
        """At `achieved` FLOP/s."""
        return self.flops / achieved

    def fastest(self, achieved: float) -> float:
        """With the reduction wholly behind the backward pass."""
        return max(self.compute_time(achieved), self.memory_time, self.reduce_time)

    def slowest(self, achieved: float) -> float:
        """With the reduction after it."""
        return max(self.compute_time(achieved), self.memory_time) + self.reduce_time


def step(cluster: Cluster, pairs: int, flops_per_pair: float, memory: Memory, objective: ObjectiveConfig) -> Step:
    """The bounds of a step of `pairs` pairs on each card of `cluster`."""
    traffic = WEIGHT_TRAFFIC * memory.parameters + 2 * pairs * memory.per_pair
    reduce_time = all_reduce_time(cluster, GRADIENT_BYTES * memory.parameters)
    if objective.itc:
        embeddings = (2 if objective.itc_form == "ms" else 3) * objective.itc_dim * EMBEDDING_BYTES
        reduce_time += all_reduce_time(
            cluster, embeddings * pairs * cluster.cards
        )  # gathered, and gradients reduced back
    return Step(
        pairs=pairs,
        flops=pairs * flops_per_pair,
        memory=memory.total(pairs),
        memory_time=traffic / cluster.card.bandwidth,
        reduce_time=reduce_time,
    )


def all_reduce_time(cluster: Cluster, size: float) -> float:
    """Least time for every card to have the sum of `size` bytes of each.

    Within a host each card gathers and gives its share over the scale-up links, and between hosts the shares go round a
    ring over the scale-out links, all cards at once. Latency is left out.
    """
    card, local = cluster.card, min(cluster.cards, cluster.card.per_host)
    within = 2 * (local - 1) / local * size / card.scale_up
    between = 2 * (cluster.hosts - 1) / cluster.hosts * (size / local) / card.scale_out
    return within + between
