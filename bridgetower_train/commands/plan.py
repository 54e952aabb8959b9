"""`bridgetower plan experiment=... hardware=gaudi2x512`: step time and memory of a run on cards that are not at hand."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.flops import step_flops_per_sample
from bridgetower_train.planning.arithmetic import Step, step
from bridgetower_train.planning.hardware import GIB, Cluster, parse
from bridgetower_train.planning.memory import Memory, measure

ASSUMED_TFLOPS = (10.0, 20.0, 40.0)
"""What a card without a published peak is assumed to achieve, to show how the time depends on it: no measurement."""


RECOMPUTED = 4 / 3
"""What activation checkpointing makes of a step's FLOPs: the forward pass is done twice."""


@dataclass(frozen=True)
class PlanConfig(TrainConfig):
    """The run, the hardware, and how well it is used."""

    hardware: str = "gaudi2x512"
    """Card and number: gaudi1x512, gaudi2x8, gaudi3x64."""
    pairs: list[int] = field(default_factory=lambda: [4, 8, 16, 32, 48])
    """Pairs per card and step to compare."""
    utilisation: float = 0.38
    """Share of the published peak that a card achieves; the default is what 8 Gaudi2 reached in the published fine-tune."""
    tflops: list[float] = field(default_factory=list)
    """What a card achieves, 10^12 FLOP/s, instead of `utilisation`; a card without a published peak takes 10, 20 and 40."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pairs:
            raise ConfigError("pairs: is empty; give pairs per card, as pairs=[4,8]")
        for pairs in self.pairs:
            at_least("pairs", pairs, 1)
        for achieved in self.tflops:
            at_least("tflops", achieved, 0.001)
        if not 0 < self.utilisation <= 1:
            raise ConfigError(f"utilisation={self.utilisation}: must be above 0 and at most 1")


def run(config: PlanConfig) -> None:
    """Print the table and what it rests on."""
    if config.model.vocab_size is None:
        raise ConfigError("model.vocab_size=null: give the number of tokens, or take model=base or model=large")
    cluster = parse(config.hardware)
    memory = measure(config, cluster.card.fused_attention)
    flops = step_flops_per_sample(config.model, config.objective)
    if config.engine.activation_checkpointing:
        flops *= RECOMPUTED
    steps = [step(cluster, pairs, flops, memory, config.objective) for pairs in config.pairs]
    print(
        "\n".join([*assumptions(config, cluster, memory, flops), "", *table(cluster, steps, achieved(config, cluster))])
    )


def achieved(config: PlanConfig, cluster: Cluster) -> list[float]:
    """FLOP/s of a card for which times are given."""
    if config.tflops:
        return [tflops * 1e12 for tflops in config.tflops]
    if cluster.card.peak is None:
        return [tflops * 1e12 for tflops in ASSUMED_TFLOPS]
    return [config.utilisation * cluster.card.peak]


def assumptions(config: PlanConfig, cluster: Cluster, memory: Memory, flops: float) -> Iterator[str]:
    """What the table rests on."""
    card = cluster.card
    peak = f"{card.peak / 1e12:.0f} TFLOP/s bf16" if card.peak else "no published peak"
    memory_speed = f"{card.memory / GIB:.0f} GiB at {card.bandwidth / 1e12:.2f} TB/s"
    yield "A model on paper: nothing in this table was measured on this hardware."
    yield (
        f"{config.hardware}: {cluster.hosts} hosts; a card has {memory_speed}, {peak}, "
        f"{card.scale_up / 1e9:.1f} GB/s to its host's cards, {card.scale_out / 1e9:.1f} GB/s to other hosts"
    )
    yield f"{memory.parameters / 1e6:.0f} M parameters; {flops / 1e12:.3g} TFLOP per pair, forward and backward (counted)"
    yield (
        "memory: 16 bytes per parameter (fp32 weight, gradient, two moments), "
        f"{memory.shared / 1e9:.2f} GB for all pairs together (weights in bf16), "
        f"{memory.per_pair / 1e9:.3f} GB per pair kept for the backward pass (traced); "
        f"at most {memory.most_pairs(card.memory)} pairs, workspace and fragmentation left out"
    )
    yield "memory time, all-reduce time: lower bounds from bytes over published speeds; gradients in fp32, no latency"
    yield "step: from all-reduce hidden behind the backward pass to all-reduce after it; loading and the host cost nothing"


def table(cluster: Cluster, steps: list[Step], speeds: list[float]) -> Iterator[str]:
    """A Markdown table, one line for each number of pairs."""
    times = [f"step at {speed / 1e12:.0f} TFLOP/s, ms | pairs/s" for speed in speeds]
    head = [
        "pairs/card",
        "global batch",
        "memory, GB",
        "fits",
        "TFLOP/card",
        "memory time, ms",
        "all-reduce, ms",
        *times,
    ]
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * (len(head) + len(speeds))
    for s in steps:
        total = s.pairs * cluster.cards
        cells = [f"{s.pairs}", f"{total:,}", f"{s.memory / 1e9:.1f}", "yes" if s.memory < cluster.card.memory else "no"]
        cells += [f"{s.flops / 1e12:.1f}", f"{s.memory_time * 1e3:.0f}", f"{s.reduce_time * 1e3:.0f}"]
        for speed in speeds:
            fast, slow = s.fastest(speed), s.slowest(speed)
            cells += [f"{fast * 1e3:.0f} to {slow * 1e3:.0f}", f"{total / slow:,.0f} to {total / fast:,.0f}"]
        yield "| " + " | ".join(cells) + " |"
