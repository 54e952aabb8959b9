"""The configuration of `bridgetower plan`."""

from dataclasses import dataclass, field

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.errors import ConfigError

ASSUMED_TFLOPS = (10.0, 20.0, 40.0)
"""Assumed for a card without a published peak, to show how the time depends on it; not measured."""

ROBERTA_TOKENS = 50265
"""Rows of the word table if neither the model nor an available tokenizer says how many there are."""


@dataclass(frozen=True)
class PlanConfig(TrainConfig):
    """The run, the hardware, and how well it is used."""

    hardware: str = "gaudi2x8"
    """Card and number: gaudi1x512, gaudi2x8, gaudi3x64, a100x8, h100x64, h200x64."""
    model_from: str | None = None
    """Run folder, exported folder or hub name whose model and losses to plan, instead of `model` and `objective`."""
    out: str | None = "plan.html"
    """Where to write the page; null: nowhere."""
    pairs: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64])
    """Micro-batch sizes whose memory to compare, in pairs per card."""
    utilisation: list[float] = field(default_factory=lambda: [0.3, 0.38, 0.45])
    """Shares of the published peak that a card may achieve: low, expected, high. The published fine-tune of this model reached
    0.37 to 0.40 on Gaudi2, 0.21 on A100 and 0.11 on H100, including data loading."""
    tflops: list[float] = field(default_factory=list)
    """What a card may achieve, 10^12 FLOP/s, instead of `utilisation`; by default 10, 20 and 40 without a published peak."""
    reserve: float = 0.1
    """Share of a card's memory to leave for the compiler, collectives and fragmentation: an assumption."""
    decode_rate: float = 1200.0
    """Samples per second that a loader worker gives on one core of a host: `worker` of `bridgetower bench data`, on a Xeon's."""
    disk: float = 1.0
    """10^9 bytes per second at which rank 0 writes a checkpoint: an assumption."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pairs", "utilisation"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: is empty; give numbers, such as {name}=[{4 if name == 'pairs' else 0.4}]")
        for pairs in self.pairs:
            at_least("pairs", pairs, 1)
        for achieved in self.tflops:
            at_least("tflops", achieved, 0.001)
        for share in self.utilisation:
            if not 0 < share <= 1:
                raise ConfigError(f"utilisation={self.utilisation}: each must be above 0 and at most 1")
        if not 0 <= self.reserve < 1:
            raise ConfigError(f"reserve={self.reserve}: must be in [0, 1)")
        at_least("decode_rate", self.decode_rate, 1)
        at_least("disk", self.disk, 0.001)

    def achieved(self, peak: float | None) -> list[float]:
        """FLOP/s that a card of this peak may achieve, ascending."""
        if self.tflops or peak is None:
            return sorted(tflops * 1e12 for tflops in self.tflops or ASSUMED_TFLOPS)
        return sorted(share * peak for share in self.utilisation)
