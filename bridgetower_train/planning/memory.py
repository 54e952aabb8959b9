"""The memory of a card during training, by engine and micro-batch: states by arithmetic, activations from a trace.

At each moment of a step the memory is linear in the number of pairs. Two traces give offset and slope for every moment; the peak
for any micro-batch is the largest value of these lines.
"""

from bisect import bisect_right
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from torch._subclasses import FakeTensorMode

from bridgetower_train.config import TrainConfig
from bridgetower_train.engines.deepspeed import bucket_size
from bridgetower_train.engines.zero_weights import Zero3Settings
from bridgetower_train.planning.trace import Bytes, Ledger, Platform, trace
from bridgetower_train.tasks import Contrast, task_class

WEIGHT = GRADIENT = COPY = 4
"""Bytes per parameter, float32 under every engine; a ZeRO rank updates a copy of its part of the weights."""
SIZES = {"fp32": 4, "bf16": 2}
"""Precision -> bytes of a number."""
MOMENTS = 2 * SIZES["fp32"]
"""Bytes per parameter of AdamW's two, in a checkpoint and by default."""
GATHERED_COPIES = 3
"""Of the gathered embeddings: the embeddings, their gradient, and the buffer in which it is computed."""
ENGINES = ("native", "zero1", "zero2", "zero3")
"""The engines that the plan compares."""
FloatBytes = npt.NDArray[np.float64]

FEW, MANY = 2, 4
"""Pairs of the two traces."""


@dataclass(frozen=True)
class Precision:
    """What `optim.moments`, `engine.reduce`, `engine.reduce_precision` and `metrics.layers_every` decide."""

    moments: int = MOMENTS
    """Bytes per parameter of AdamW's two."""
    sent: int = GRADIENT
    """Bytes of a gradient on its way to other cards."""
    once: bool = False
    """Whether the native engine averages all gradients in one all-reduce."""
    watched: bool = False
    """Whether norms by layer are logged, for which an update keeps the weights from before it."""

    @staticmethod
    def of(config: TrainConfig) -> "Precision":
        """As configured."""
        engine = config.engine
        return Precision(
            2 * SIZES[config.optim.moments],
            SIZES[engine.reduce_precision],
            engine.reduce == "once",
            config.metrics.layers_every > 0,
        )


FLOAT32 = Precision()


def states(
    engine: str, parameters: int, trained: int, cards: int, precision: Precision = FLOAT32
) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer state on each of `cards`, between the micro-batches of a step.

    `trained` of the `parameters` are not frozen, and have the latter two.

    On several cards the native engine has DDP's buckets in addition to accumulated gradients, if it does not reduce them at once;
    ZeRO-1 and 3 have one bucket.
    """
    P, T, part, bucket = float(parameters), float(trained), trained / cards, bucket_size(parameters)
    moments = precision.moments
    copied = (COPY + moments) * part
    return {
        "zero0": (WEIGHT * P, GRADIENT * T, moments * T),
        "zero1": (WEIGHT * P, GRADIENT * (T + bucket), copied),
        "zero2": (WEIGHT * P, GRADIENT * part, copied),
        "zero3": (WEIGHT * P / cards, GRADIENT * part + precision.sent * bucket, copied),
    }.get(engine, (WEIGHT * P, GRADIENT * T * (2 if cards > 1 and not precision.once else 1), moments * T))


@dataclass(frozen=True)
class Breakdown:
    """Bytes of one card at the peak."""

    weights: float
    copies: float
    """Weights in bf16, which autocast keeps until the backward pass has used them; those from before an update."""
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """Bytes."""
        return float(sum(astuple(self)))


@dataclass(frozen=True)
class Kept:
    """What the blocks of one part of the model keep for the backward pass."""

    part: str
    blocks: int
    """0 for what is between and after the blocks."""
    per_pair: float
    """Bytes of all of them per pair of the micro-batch."""


@dataclass(frozen=True)
class Memory:
    """The memory of one card. The arrays have an entry for each moment of the forward and backward pass of one micro-batch."""

    parameters: int
    trained: int
    """Those that are not frozen."""
    sharded: int
    """Elements of the weights that ZeRO-3 shards; small ones stay whole on every rank."""
    live: int
    """Elements of them that are whole at the same time, at most: what may be prefetched, and the largest block or weight."""
    gradients: Bytes
    copies: Bytes
    fixed: Bytes
    """Activations that do not depend on the number of pairs."""
    per_pair: Bytes
    kept: list[Kept]
    entry: float
    """Bytes per entry of the contrast's local rows x global columns."""
    embedding: int
    """Bytes that each pair contributes to the contrast of all ranks."""
    precision: Precision = FLOAT32

    def use(
        self, engine: str, pairs: int, cards: int = 1, accumulates: bool = False, contrast: Contrast | None = None
    ) -> Breakdown:
        """The peak of a step with `pairs` pairs a micro-batch on each of `cards`: in a backward pass, in the update, or where
        embeddings are compared (`contrast`, which says too whether a step accumulates; by default all of a micro-batch's with
        those of all cards)."""
        contrast = contrast or Contrast(pairs * cards, pairs, 1, cards)
        accumulates = accumulates or contrast.micro_batches > 1
        weights, _, optimizer = states(engine, self.parameters, self.trained, cards, self.precision)
        if engine == "zero3":
            weights += WEIGHT * self.live
        pieces = self._gradients(engine, cards, accumulates)
        activations = self.fixed + self.per_pair * pairs
        at = int((pieces + self.copies + activations).argmax())
        rows, columns = contrast.rows, contrast.columns
        copied = GATHERED_COPIES * self.embedding * (columns if columns > rows else 0)
        more = 0.0 if contrast.two_passes else self.entry * pairs * (columns - pairs) + copied
        peak = Breakdown(
            weights, float(self.copies[at]), float(pieces[at]), optimizer, max(0.0, float(activations[at]) + more)
        )
        # All gradients in one all-reduce are there twice, when the activations are gone: in bf16 as pieces and as a whole.
        native = 2.0 if self._once(engine, cards) else 1.0
        left = {"zero1": 2 / cards, "zero2": 2 / cards, "zero3": 1 / cards, "native": native}.get(engine, 1.0)
        updated = self.trained / (cards if engine in ("zero1", "zero2", "zero3") else 1)
        before = COPY * updated * self.precision.watched
        update = Breakdown(weights, before, GRADIENT * left * self.trained, optimizer, 0.0)
        compared = self.entry * rows * columns + copied + GATHERED_COPIES * self.embedding * rows
        first_pass = Breakdown(weights, 0.0, float(pieces[0]), optimizer, compared * contrast.two_passes)
        return max(peak, update, first_pass, key=lambda use: use.total)

    def _once(self, engine: str, cards: int) -> bool:
        """Whether gradients are averaged in one all-reduce, instead of buckets."""
        return engine == "native" and cards > 1 and self.precision.once

    def _gradients(self, engine: str, cards: int, accumulates: bool) -> FloatBytes:
        """Bytes of gradients at each moment; with accumulation, in a micro-batch other than the first.

        Without buckets they appear one by one while activations are freed. ZeRO fills a bucket, allocated with the first one and
        always under ZeRO-3. ZeRO-1 empties it after the pass, and ZeRO-3 sends a copy of a full one. Device settings that have no
        bucket (`contiguous_gradients: false`, on HPU) allocate it to send, and under ZeRO-2 a second one.
        """
        come = self.gradients.astype(np.float64)
        P, bucket = float(GRADIENT * self.trained), float(GRADIENT * bucket_size(self.parameters))
        part = P / cards
        begun: FloatBytes = np.where(come > 0, bucket, 0.0)
        sent = bucket * self.precision.sent / GRADIENT
        full: FloatBytes = np.where(come >= min(bucket, come.max()), sent, 0.0)
        whole: FloatBytes = np.full_like(come, P)
        buckets = cards > 1 and not self._once(engine, cards)
        native = whole + P * (accumulates and buckets) if accumulates or buckets else come
        moments: dict[str, FloatBytes] = {
            "zero0": whole,
            "zero1": whole + bucket if accumulates else come + begun,
            "zero2": begun + part * (2 if accumulates else 1),
            "zero3": part + sent + full,
        }
        return moments.get(engine, native)

    def most_pairs(self, room: float, engine: str, cards: int, accumulates: bool = False) -> int:
        """The largest micro-batch, below 2^20, that stays within `room` bytes; 0 if none does."""
        return bisect_right(
            range(1, 1 << 20), room, key=lambda pairs: self.use(engine, pairs, cards, accumulates).total
        )

    def gathered(self, passes: int) -> int:
        """Elements that ZeRO-3 gathers in a step: sharded weights in each of its `passes`, small ones after the update.

        DeepSpeed keeps some weights from one pass to the next and gathers shared ones more often: -5% for `base`, +9% for `tiny`.
        """
        return passes * self.sharded + self.parameters - self.sharded

    @property
    def per_pair_kept(self) -> float:
        """Bytes per pair kept from the forward to the backward pass."""
        return sum(kept.per_pair for kept in self.kept)


def measure(config: TrainConfig, platform: Platform, checkpointing: bool) -> Memory:
    """Trace a step for two numbers of pairs, with or without activation checkpointing."""
    kind = task_class(config)
    few, many = (trace(config, pairs, checkpointing, platform) for pairs in (FEW, MANY))
    assert len(few.activations) == len(many.activations), "the operations of a step do not depend on its pairs"
    per_pair = (many.activations - few.activations) // (MANY - FEW)
    zero3 = Zero3Settings.of(few.parameters)
    kept = [Kept(part, few.blocks.get(part, 0), (many.kept[part] - few.kept[part]) / (MANY - FEW)) for part in few.kept]
    return Memory(
        few.parameters,
        few.trained,
        sum(size for size in few.sizes if size > zero3.persistent),
        zero3.live + few.largest,
        few.gradients,
        few.copies,
        few.activations - FEW * per_pair,
        per_pair,
        kept,
        contrast_entry(config) if kind.gathered(config) else 0.0,
        COPY * kind.gathered(config),
        Precision.of(config),
    )


def contrast_entry(config: TrainConfig) -> float:
    """Peak bytes of the contrast per entry of its logits, from its growth with the square of the rows."""
    one, two, four = (_contrast_peak(config, rows) for rows in (128, 256, 512))
    return (four - 3 * two + 2 * one) / (6 * 128**2)


def _contrast_peak(config: TrainConfig, rows: int) -> int:
    with FakeTensorMode():
        loss = task_class(config).contrast(config, rows)
        with Ledger() as ledger:
            loss().backward()
    peak: int = max(alive for alive, _, _ in ledger.line)
    return peak
