"""How long a step takes: bounds from counted work, bytes and link speeds.

Nothing here was measured on the hardware in question.
"""

from dataclasses import dataclass

from bridgetower_train.planning.collectives import Collective
from bridgetower_train.planning.hardware import Cluster
from bridgetower_train.planning.memory import FLOAT32, MOMENTS, Precision

WEIGHT_TRAFFIC = 46
"""Bytes of memory traffic per parameter and step: the bf16 copy (4 read, 2 written), its use forward and backward (2 + 2), the
gradient (4 written, 4 read for its norm), AdamW (16 read, 12 written). Moments in bf16 are 8 less."""
BACKWARD = 2 / 3
"""Share of a step's FLOPs in the backward pass, with which the reduction of gradients can overlap."""


@dataclass(frozen=True)
class Step:
    """One optimizer step on each card. Times in seconds."""

    flops: float
    """Of one card."""
    micro_batches: int
    memory_time: float
    """Lower bound: weights, optimizer and kept activations are read and written once."""
    links: dict[str, float]
    """What is sent -> lower bound of its time, with the links to itself."""
    overlaps: bool = True
    """Whether gradients can be sent during the backward pass."""

    @property
    def links_time(self) -> float:
        """Of everything that is sent."""
        return sum(self.links.values())

    def compute_time(self, achieved: float) -> float:
        """At `achieved` FLOP/s."""
        return self.flops / achieved

    def fastest(self, achieved: float) -> float:
        """With communication overlapped as far as the engine allows."""
        behind = 0.0 if self.overlaps else self.links.get("gradients", 0.0)
        return max(self.compute_time(achieved), self.memory_time, self.links_time - behind) + behind

    def slowest(self, achieved: float) -> float:
        """Without any overlap."""
        return max(self.compute_time(achieved), self.memory_time) + self.links_time

    def expected(self, achieved: float) -> float:
        """With gradients overlapping the backward pass of the last micro-batch as far as possible, the rest without overlap."""
        compute = max(self.compute_time(achieved), self.memory_time)
        hidden = min(self.links.get("gradients", 0.0), BACKWARD * compute / self.micro_batches) * self.overlaps
        return compute + self.links_time - hidden


def memory_time(
    cluster: Cluster, parameters: int, kept: float, micro_batches: int, precision: Precision = FLOAT32
) -> float:
    """Lower bound of the time to read and write a step's weights, and what its micro-batches keep (`kept` bytes each), once."""
    per_weight = WEIGHT_TRAFFIC - 2 * (MOMENTS - precision.moments)
    return (per_weight * parameters + 2 * kept * micro_batches) / cluster.card.bandwidth


def links_times(cluster: Cluster, calls: list[Collective]) -> dict[str, float]:
    """What is sent -> lower bound of its time."""
    times: dict[str, float] = {}
    for call in calls:
        passes = 1.0 if call.kind == "all_reduce" else 0.5
        times[call.what] = times.get(call.what, 0.0) + passes * all_reduce_time(cluster, call.size)
    return times


def all_reduce_time(cluster: Cluster, size: float) -> float:
    """Lower bound of an all-reduce of `size` bytes; a gather or a scatter takes half of it.

    Within a host each card exchanges its share over the scale-up links; between hosts the shares go round a ring over the
    scale-out links, all cards at once. Latency is ignored.
    """
    card, local = cluster.card, min(cluster.cards, cluster.card.per_host)
    within = 2 * (local - 1) / local * size / card.scale_up
    between = 2 * (cluster.hosts - 1) / cluster.hosts * (size / local) / card.scale_out
    return within + between
