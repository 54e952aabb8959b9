"""What one optimizer step sends: the bytes of each collective by engine, counted from what the engines do."""

from dataclasses import dataclass

FP32 = 4
"""Bytes of a weight, which all engines store and send in float32, and of a gradient, unless it is sent in bf16."""
TOTALS, FLAG, NORM = 3 * FP32, 8, FP32
"""Bytes of the step's counts (Task.counts), of the agreement to stop (Flag), and of ZeRO's gradient norm."""
IDS = 2 * 8  # of the image and of the text


@dataclass(frozen=True)
class Collective:
    """The calls of one kind for one purpose in one optimizer step."""

    kind: str
    """`all_reduce`, `all_gather`, `reduce_scatter` or `reduce`."""
    what: str
    """`gradients`, `weights`, `embeddings`, or `agreements`: counts, norm and stop."""
    size: float
    """Bytes of the whole tensors; of a gather or scatter, the parts of all ranks together."""


def collective_bytes(
    engine: str,
    parameters: int,
    world_size: int,
    micro_batches: int = 1,
    rows: int = 0,
    embedding: int = 0,
    all_reduces: bool = False,
    gathered: int = 0,
    gradient: int = FP32,
) -> list[Collective]:
    """The collectives of one rank of `world_size` in one optimizer step; none for a single rank.

    `parameters` are those that are trained, `rows` the samples of a rank of which `embedding` numbers each (Task.gathered) go to
    all ranks (Contrast.gathered), and `all_reduces` is true where the device makes ZeRO all-reduce gradients
    (`reduce_scatter: false`); `gathered` is the number of elements that ZeRO-3 gathers (Memory.gathered), and a `gradient` has so
    many bytes (`engine.reduce_precision`). Left out: the padding of gradients and of whole groups, below one element per
    parameter and rank.
    """
    if world_size == 1:
        return []
    stage = int(engine[len("zero") :]) if engine != "native" else 0
    reduction = "all_reduce" if stage == 0 or all_reduces else "reduce_scatter" if stage == 3 else "reduce"
    sent = [Collective(reduction, "gradients", float(gradient * parameters * (micro_batches if stage >= 2 else 1)))]
    if stage:
        sent.append(Collective("all_gather", "weights", float(FP32 * (gathered if stage == 3 else parameters))))
    if rows:
        embeddings, ids = float(FP32 * embedding * rows * world_size), float(IDS * rows * world_size)
        sent.append(Collective("all_gather", "embeddings", embeddings + ids))
        sent.append(Collective("reduce_scatter", "embeddings", embeddings))
    sent.append(Collective("all_reduce", "agreements", float(TOTALS + FLAG + (NORM if stage else 0))))
    return sent


def link_bytes(kind: str, size: float, world_size: int) -> float:
    """Bytes that each rank sends in a ring, the least for a collective over `size` bytes."""
    passes = 2 if kind == "all_reduce" else 1
    return passes * (world_size - 1) / world_size * size
