"""A run on other hardware: its memory and time, its bottleneck, and how these change with the number of cards."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from bridgetower_train.config import Duration, RunLength, TrainConfig
from bridgetower_train.engines.graphs import Graphs, planned_graphs
from bridgetower_train.engines.reduction import check_reduction
from bridgetower_train.planning.arithmetic import Step, links_times, memory_time
from bridgetower_train.planning.collectives import Collective, collective_bytes
from bridgetower_train.planning.config import ROBERTA_TOKENS, PlanConfig
from bridgetower_train.planning.corpora import Corpora, count
from bridgetower_train.planning.hardware import Card, Cluster, parse
from bridgetower_train.planning.memory import MOMENTS, WEIGHT, Breakdown, Memory, measure
from bridgetower_train.planning.trace import Platform
from bridgetower_train.tasks import Contrast, contrast, first_pass_flops, step_flops, task_class

SCAN = tuple(2**k for k in range(3, 13))
"""Numbers of cards to compare: 8 to 4,096."""
RECOMPUTED = 4 / 3
"""Factor of activation checkpointing on a step's FLOPs: the forward pass runs twice."""
NOTABLE = 0.1
"""Share of the training time that writing checkpoints may take without a remark."""
"""Bytes per parameter of a checkpoint."""


class Flops(NamedTuple):
    """Per pair, as a mean over the run, whose last steps may train on whole images (`model.patch_dropout_until`)."""

    step: float
    """Forward and backward, with what the configuration recomputes."""
    first_pass: float
    """Of the pass that embeds a micro-batch where a step takes two."""


@dataclass(frozen=True)
class Estimate:
    """The run on one number of cards."""

    cluster: Cluster
    global_batch: int
    pairs: int
    """Per card and step."""
    micro_batch: int
    contrast: Contrast
    use: Breakdown
    fits: bool
    calls: list[Collective]
    step: Step
    compute: float
    """Seconds of a step for its matrix products, at what a card is expected to achieve."""
    loading: float
    """Seconds for the loader to prepare the samples of a step."""
    expected: float
    """Seconds of a step; so are the two bounds."""
    fastest: float
    slowest: float

    @property
    def samples_per_s(self) -> float:
        """Of all cards, expected."""
        return self.global_batch / self.expected

    @property
    def host_samples_per_s(self) -> float:
        """What the loaders of one host must provide."""
        return self.samples_per_s / self.cluster.hosts

    @property
    def links_share(self) -> float:
        """Share of the step in which the links are in use."""
        return self.step.links_time / self.expected

    @property
    def times(self) -> dict[str, float]:
        """Resource -> seconds of a step, were it the only one."""
        return {
            "products": self.compute,
            "the card's memory": self.step.memory_time,
            "links": self.step.links_time,
            "loader": self.loading,
        }

    @property
    def bottleneck(self) -> str:
        """The resource that a step needs longest; the memory's size where the step does not fit."""
        return max(self.times, key=self.times.__getitem__) if self.fits else "size of the card's memory"


@dataclass(frozen=True)
class Plan:
    """The whole plan."""

    config: PlanConfig
    cluster: Cluster
    memories: dict[bool, Memory]
    """By activation checkpointing."""
    flops: Flops
    corpora: Corpora
    samples: float | None
    """Of the whole run; None if its length is in epochs of corpora of unknown size."""
    here: Estimate
    """The run as it is configured."""
    same_batch: list[Estimate]
    """The scan with the global batch as configured."""
    same_pairs: list[Estimate]
    """The scan with the pairs per card as configured."""

    @property
    def memory(self) -> Memory:
        """As configured."""
        return self.memories[self.config.engine.activation_checkpointing]

    @property
    def room(self) -> float:
        """Bytes of a card that training may use."""
        return self.cluster.card.memory * (1 - self.config.reserve)

    @property
    def steps(self) -> float | None:
        """Of the run as configured."""
        return None if self.samples is None else self.samples / self.config.global_batch

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and optimizer state."""
        return WEIGHT * self.memory.parameters + MOMENTS * self.memory.trained

    @property
    def checkpoint_interval(self) -> float | None:
        """Seconds from one checkpoint to the next; None where `checkpoint.every` refers to what is not known."""
        key, every = "checkpoint.every", self.config.checkpoint.every
        unit, epoch = Duration.parse(key, every).unit, 0 if self.corpora.unknown else round(self.corpora.samples)
        if (unit == "epoch" and not epoch) or (unit == "%" and not self.steps):
            return None
        return RunLength(self.config.global_batch, epoch, round(self.steps or 0)).every(key, every) * self.here.expected

    @property
    def graphs(self) -> Graphs | None:
        """What is compiled and launched on each card; None in eager execution."""
        auto = self.config.device.execution == "auto"
        execution = self.cluster.card.execution if auto else self.config.device.execution
        return planned_graphs(self.config, self.here.contrast, execution)

    @property
    def remarks(self) -> list[str]:
        """What to change, and what is unknown."""
        config, card = self.config, self.cluster.card
        fault = ways_to_fit(self)
        found = [f"{self.here.micro_batch} pairs a micro-batch: {fault}."] if fault else []
        if card.peak and config.device.precision == "fp32" and not config.tflops:
            found.append(
                "The card's peak is that of bf16, and device.precision is fp32: set tflops=[...] to what it achieves in fp32."
            )
        interval, saving = self.checkpoint_interval, self.checkpoint_bytes / 1e9 / config.disk
        if interval and saving > NOTABLE * interval:
            found.append(
                f"checkpoint.every={config.checkpoint.every} is a checkpoint every {interval:,.0f} s, each of which takes "
                f"{saving:,.0f} s to write at {config.disk:g} GB/s: raise it."
            )
        return found + [f"The size of corpus {name} is unknown; it is left out." for name in self.corpora.unknown]

    def run_time(self, estimate: Estimate, step: float) -> float | None:
        """Seconds for the run's samples on the cards of `estimate`, at `step` seconds a step."""
        return None if self.samples is None else self.samples / estimate.global_batch * step


def make_plan(config: PlanConfig, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Trace the model, count the data, and compare numbers of cards; ConfigError if the run does not divide among the cards.

    `say` is told what takes time. Without `model.vocab_size` the tokenizer is RoBERTa's.
    """
    if config.model.vocab_size is None:
        say(f"model.vocab_size is null: planned with {ROBERTA_TOKENS:,} tokens, as RoBERTa has")
        config = replace(config, model=replace(config.model, vocab_size=ROBERTA_TOKENS))
    cluster = parse(config.hardware)
    config.rank_batch(cluster.cards)  # before the work of tracing
    cluster.card.device.check_moments(config.optim)
    check_reduction(config.engine.name, config.engine, cluster.card.device)
    platform = Platform.on_paper(cluster.card.fused_attention, config.device.precision)
    memories = {}
    for number, kept in enumerate((False, True), 1):
        say(f"tracing a step {'with' if kept else 'without'} activation checkpointing, {number} of 2")
        memories[kept] = measure(config, platform, kept)
    return plan_from(config, memories)


def plan_from(config: PlanConfig, memories: dict[bool, Memory]) -> Plan:
    """The plan, given the model's memory without and with activation checkpointing."""
    cluster = parse(config.hardware)
    micro_batch, _ = config.rank_batch(cluster.cards)
    recomputes = config.engine.activation_checkpointing
    corpora = count(config.data, config.model.image_size)
    share = whole_share(config, corpora)
    flops = Flops(
        _mean(step_flops, config, share) * (RECOMPUTED if recomputes else 1),
        _mean(first_pass_flops, config, share) if task_class(config).gathered(config) else 0.0,
    )
    memory = memories[recomputes]
    here = estimate(config, cluster, config.global_batch, micro_batch, memory, flops)
    return Plan(
        config, cluster, memories, flops, corpora, run_samples(config, corpora), here,
        same_batch=_scan(config, cluster.card, None, memory, flops),
        same_pairs=_scan(config, cluster.card, here.pairs, memory, flops),
    )  # fmt: skip


def run_samples(config: PlanConfig, corpora: Corpora) -> float | None:
    """Samples of the whole run; None where that is unknown."""
    length = Duration.parse("steps", config.steps)
    if length.unit == "epoch":
        return None if corpora.unknown or not corpora.samples else length.amount * corpora.samples
    return length.amount * (1 if length.unit == "sample" else config.global_batch)


def whole_share(config: PlanConfig, corpora: Corpora) -> float:
    """Share of a run's steps that train on whole images; 0 where that is unknown."""
    if config.model.kept_patches is None:
        return 1.0
    key, until = "model.patch_dropout_until", config.model.patch_dropout_until
    samples, epoch = run_samples(config, corpora), 0 if corpora.unknown else round(corpora.samples)
    steps = round(samples / config.global_batch) if samples else 0
    unit = Duration.parse(key, until).unit
    if (unit == "epoch" and not epoch) or (unit != "%" and not steps):
        return 0.0
    steps = steps or 100
    return max(0.0, 1 - RunLength(config.global_batch, epoch, steps).in_steps(key, until) / steps)


def _mean(flops: Callable[[TrainConfig], float], config: PlanConfig, share: float) -> float:
    """Over steps of which this `share` trains on whole images."""
    return (1 - share) * flops(config) + share * flops(config.on_whole_images)


def estimate(
    config: PlanConfig, cluster: Cluster, global_batch: int, micro_batch: int, memory: Memory, flops: Flops
) -> Estimate:
    """The run on `cluster` with `micro_batch` pairs per card in each forward pass."""
    cards, pairs = cluster.cards, global_batch // cluster.cards
    micro_batches = pairs // micro_batch
    compared = contrast(config, cards, micro_batch, global_batch)
    use = memory.use(config.engine.name, micro_batch, cards, contrast=compared)
    calls = sent(config, config.engine.name, cluster, memory, compared)
    step = Step(
        pairs * (flops.step + flops.first_pass * compared.two_passes),
        micro_batches,
        memory_time(cluster, memory.trained, micro_batch * memory.per_pair_kept, micro_batches, memory.precision),
        links_times(cluster, calls),
        overlaps=config.engine.reduce == "buckets",
    )
    speeds = config.achieved(cluster.card.peak)
    middle = speeds[len(speeds) // 2]
    loading = pairs / (max(1, config.data.workers) * config.decode_rate)
    return Estimate(
        cluster, global_batch, pairs, micro_batch, compared, use, use.total <= cluster.card.memory * (1 - config.reserve),
        calls, step, step.compute_time(middle), loading,
        expected=max(loading, step.expected(middle)),
        fastest=max(loading, step.fastest(speeds[-1])),
        slowest=max(loading, step.slowest(speeds[0])),
    )  # fmt: skip


def sent(config: PlanConfig, engine: str, cluster: Cluster, memory: Memory, compared: Contrast) -> list[Collective]:
    """What a card sends in a step under `engine`."""
    all_reduces = cluster.card.sums_for_all and engine in ("zero2", "zero3")
    return collective_bytes(
        engine, memory.trained, cluster.cards, compared.micro_batches, compared.gathered, task_class(config).gathered(config),
        all_reduces, memory.gathered(compared.passes), memory.precision.sent,
    )  # fmt: skip


def best_micro_batch(config: PlanConfig, cluster: Cluster, pairs: int, memory: Memory) -> int:
    """The largest divisor of a card's `pairs` that fits; 1 if none does."""
    room = cluster.card.memory * (1 - config.reserve)
    if memory.use(config.engine.name, pairs, cluster.cards).total <= room:
        return pairs
    most = memory.most_pairs(room, config.engine.name, cluster.cards, accumulates=True)
    return max((n for n in range(1, min(most, pairs) + 1) if pairs % n == 0), default=1)


def _scan(config: PlanConfig, card: Card, pairs: int | None, memory: Memory, flops: Flops) -> list[Estimate]:
    """Estimates for `pairs` per card, or for the configured global batch where that divides among the cards."""
    estimates = []
    for cards in SCAN:
        cluster = Cluster(card, cards)
        global_batch = pairs * cards if pairs else config.global_batch
        each = global_batch // cards
        if each < config.min_samples_per_lane or global_batch % cards:
            continue
        micro_batch = best_micro_batch(config, cluster, each, memory)
        estimates.append(estimate(config, cluster, global_batch, micro_batch, memory, flops))
    return estimates


def ways_to_fit(plan: Plan) -> str:
    """What to do if the configured run does not fit a card; empty if it fits."""
    config, here = plan.config, plan.here
    if here.fits:
        return ""
    best = best_micro_batch(config, plan.cluster, here.pairs, plan.memory)
    lanes = [n for n in range(1, best + 1) if here.pairs % n == 0 and n % config.samples_per_lane == 0]
    ways = [f"micro_batch={lanes[-1]}"] if lanes and lanes[-1] < here.micro_batch else []
    ways += ["engine.activation_checkpointing=true"] * (not config.engine.activation_checkpointing)
    ways += ["optim.moments=bf16"] * (config.optim.moments == "fp32" and "bf16" in plan.cluster.card.device.moments)
    ways += ["engine=zero2"] * (config.engine.name == "native")
    return f"does not fit; try {' or '.join(ways) or 'more cards'}"
