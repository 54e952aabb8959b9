"""How long a step takes: bounds from counted work, bytes and links, on paper.

Nothing here was measured on the hardware that it is about.
"""

from dataclasses import dataclass

from bridgetower_train.planning.collectives import Collective
from bridgetower_train.planning.hardware import Cluster

WEIGHT_TRAFFIC = 46
"""Bytes of memory traffic per parameter and step: the bf16 copy (4 read, 2 written) and its use forward and backward (2 + 2),
the gradient (4 written, 4 read for its norm), AdamW (16 read, 12 written)."""
BACKWARD = 2 / 3
"""Share of a step's products that is done in the backward pass, behind which gradients can be reduced."""


@dataclass(frozen=True)
class Step:
    """One optimizer step on each card. Times in seconds."""

    flops: float
    """Of one card."""
    micro_batches: int
    memory_time: float
    """At least, for weights, optimizer and kept activations to pass between card and memory once."""
    links: dict[str, float]
    """What is sent -> time that it takes at least, nothing else using the links."""

    @property
    def links_time(self) -> float:
        """Of all that is sent."""
        return sum(self.links.values())

    def compute_time(self, achieved: float) -> float:
        """At `achieved` FLOP/s."""
        return self.flops / achieved

    def fastest(self, achieved: float) -> float:
        """With all that is sent wholly behind the products."""
        return max(self.compute_time(achieved), self.memory_time, self.links_time)

    def slowest(self, achieved: float) -> float:
        """With all of it after them."""
        return max(self.compute_time(achieved), self.memory_time) + self.links_time

    def expected(self, achieved: float) -> float:
        """With gradients behind the backward pass of the last micro-batch as far as it reaches, and the rest after it."""
        compute = max(self.compute_time(achieved), self.memory_time)
        hidden = min(self.links.get("gradients", 0.0), BACKWARD * compute / self.micro_batches)
        return compute + self.links_time - hidden


def memory_time(cluster: Cluster, parameters: int, kept: float, micro_batches: int) -> float:
    """Least time for the weights of a step, and what its micro-batches keep (`kept` bytes each), to pass once."""
    return (WEIGHT_TRAFFIC * parameters + 2 * kept * micro_batches) / cluster.card.bandwidth


def links_times(cluster: Cluster, calls: list[Collective]) -> dict[str, float]:
    """What is sent -> least time for it."""
    times: dict[str, float] = {}
    for call in calls:
        passes = 1.0 if call.kind == "all_reduce" else 0.5
        times[call.what] = times.get(call.what, 0.0) + passes * all_reduce_time(cluster, call.size)
    return times


def all_reduce_time(cluster: Cluster, size: float) -> float:
    """Least time for every card to have the sum of `size` bytes of each; a gather or a scatter takes half of it.

    Within a host each card gathers and gives its share over the scale-up links, and between hosts the shares go round a
    ring over the scale-out links, all cards at once. Latency is left out.
    """
    card, local = cluster.card, min(cluster.cards, cluster.card.per_host)
    within = 2 * (local - 1) / local * size / card.scale_up
    between = 2 * (cluster.hosts - 1) / cluster.hosts * (size / local) / card.scale_out
    return within + between
