"""What the ranks send each other in one optimizer step, by kind."""

from dataclasses import dataclass

from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.objectives.itc import TERMS

FLOAT = 4
"""Bytes of a weight, a gradient, an entry of an embedding: float32 under every engine."""
COUNTS = 3 * FLOAT
"""The totals of a step: pairs, masked tokens, pairs of ITM."""


@dataclass(frozen=True)
class Collective:
    """The calls of one kind in one optimizer step."""

    kind: str
    """`all_reduce`, `all_gather`, `reduce_scatter` or `reduce`."""
    what: str
    """`gradients`, `weights`, `embeddings` or `counts`."""
    bytes: float
    """Of the whole tensor (of a gather, the parts of all ranks together), summed over the calls."""


def collective_bytes(
    engine: str,
    parameters: int,
    world_size: int,
    micro_batches: int = 1,
    pairs: int = 0,
    objective: ObjectiveConfig | None = None,
) -> list[Collective]:
    """What one rank calls in an optimizer step of `micro_batches` of `pairs` pairs; nothing where it is alone.

    ZeRO after Rajbhandari et al. (2020), section 7.
    """
    if world_size == 1:
        return []
    whole = FLOAT * parameters
    calls = {
        "zero1": [Collective("reduce", "gradients", whole), Collective("all_gather", "weights", whole)],
        "zero2": [
            Collective("reduce", "gradients", micro_batches * whole),
            Collective("all_gather", "weights", whole),
        ],
        "zero3": [
            Collective("reduce_scatter", "gradients", micro_batches * whole),
            Collective("all_gather", "weights", 2 * micro_batches * whole),
        ],
    }.get(engine, [Collective("all_reduce", "gradients", whole)])
    if objective and objective.itc:
        keys = len({key for _, key in TERMS[objective.itc_form]})
        gathered = micro_batches * pairs * world_size * keys * objective.itc_dim * FLOAT
        calls += [Collective("all_gather", "embeddings", gathered), Collective("all_reduce", "embeddings", gathered)]
    return [*calls, Collective("all_reduce", "counts", COUNTS)]


def link_bytes(kind: str, size: float, world_size: int) -> float:
    """Bytes that each rank sends for a collective over `size` bytes, in a ring."""
    passes = 2 if kind == "all_reduce" else 1
    return passes * (world_size - 1) / world_size * size
