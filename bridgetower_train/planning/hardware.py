"""Cards and their links, as published by their vendors. What is not published is None."""

import re
from dataclasses import dataclass

from bridgetower_train.devices import Device, cuda, hpu
from bridgetower_train.errors import ConfigError, nearest

GIB = 2**30
GBIT = 1e9 / 8


@dataclass(frozen=True)
class Card:
    """One accelerator, with its share of the host's links."""

    name: str
    title: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Memory bandwidth, bytes per second."""
    peak: float | None
    """Dense bf16 FLOP/s; None if the vendor never published it."""
    scale_up: float
    """Bytes per second, one direction, to all other cards of its host together."""
    scale_out: float
    """Bytes per second, one direction, to other hosts."""
    fused_attention: bool
    """Whether attention avoids keeping a queries x keys matrix for the backward pass."""
    device: type[Device]
    """How this project runs on it."""
    source: str
    """Where the figures come from, and what is unknown."""
    per_host: int = 8
    execution: str = "eager"
    """What `device.execution=auto` takes."""

    @property
    def sums_for_all(self) -> bool:
        """Whether ZeRO-2 and 3 all-reduce gradients, by the vendor's settings."""
        return self.device.zero_settings(2).get("reduce_scatter") is False


_INTEL = "Intel's documents (memory, ports) and press (peak)"
_NVIDIA = "NVIDIA's data sheets of the card (SXM) and of the DGX host, with one network adapter per card"

CARDS = {
    card.name: card
    for card in (
        Card(
            "gaudi1", "Gaudi (HL-205)", 32 * GIB, 1.0e12, hpu.PEAK_BF16.get(1), 700 * GBIT, 300 * GBIT, False, hpu.HpuDevice,
            "Intel's documents: 32 GiB HBM2, ten ports of 100 Gb/s, seven of them within the host; 1 TB/s is from vendor briefs. "
            "No peak was ever published. Fused attention in training was not established. AWS's DL1 has 400 Gb/s for the whole "
            "host instead of the cards' own ports to other hosts.",
            execution="lazy",
        ),
        Card(
            "gaudi2", "Gaudi2 (HL-225)", 96 * GIB, 2.45e12, hpu.PEAK_BF16[2], 2100 * GBIT, 300 * GBIT, True, hpu.HpuDevice,
            f"{_INTEL}: 96 GiB HBM2E, 24 ports of 100 Gb/s, 21 of them within the host.",
            execution="lazy",
        ),
        Card(
            "gaudi3", "Gaudi3 (HL-325L)", 128 * GIB, 3.7e12, hpu.PEAK_BF16[3], 4200 * GBIT, 600 * GBIT, True, hpu.HpuDevice,
            f"{_INTEL}: 128 GiB HBM2e, 24 ports of 200 Gb/s, 21 of them within the host. Its only published run of this model "
            "was bound by data.",
            execution="lazy",
        ),
        Card(
            "a100", "A100 SXM 80 GB", 80 * GIB, 2.039e12, cuda.PEAK_BF16["A100"], 300e9, 200 * GBIT, True, cuda.CudaDevice,
            f"{_NVIDIA}: 80 GiB HBM2e, NVLink of 600 GB/s in both directions together, 200 Gb/s per adapter.",
        ),
        Card(
            "h100", "H100 SXM 80 GB", 80 * GIB, 3.35e12, cuda.PEAK_BF16["H100"], 450e9, 400 * GBIT, True, cuda.CudaDevice,
            f"{_NVIDIA}: 80 GiB HBM3, NVLink of 900 GB/s in both directions together, 400 Gb/s per adapter.",
        ),
        Card(
            "h200", "H200 SXM", 140 * GIB, 4.8e12, cuda.PEAK_BF16["H200"], 450e9, 400 * GBIT, True, cuda.CudaDevice,
            f"{_NVIDIA}: 141 GB HBM3e, of which a card showed 143,771 MiB (benchmarks/2026-11-27-h200.md); NVLink of 900 GB/s in "
            "both directions together, 400 Gb/s per adapter.",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """Identical cards, eight per host."""

    card: Card
    cards: int

    @property
    def hosts(self) -> int:
        """Number of hosts, the last one possibly not full."""
        return -(-self.cards // self.card.per_host)

    @property
    def name(self) -> str:
        """In the form that `parse` reads."""
        return f"{self.card.name}x{self.cards}"


def parse(text: str) -> Cluster:
    """Read `gaudi2x512`; ConfigError for an unknown card or an impossible number."""
    match = re.fullmatch(r"(\w+?)x([1-9][0-9]*)", text)
    if match is None or match[1] not in CARDS:
        near = nearest(match[1] if match else text, CARDS)
        raise ConfigError(
            f"hardware={text}: must be a card and a number, such as gaudi2x512; cards: {', '.join(CARDS)}{near}"
        )
    cards = int(match[2])
    if cards > 8 and cards % 8:
        raise ConfigError(f"hardware={text}: hosts have 8 cards; take {cards // 8 * 8} or {-(-cards // 8) * 8}")
    return Cluster(CARDS[match[1]], cards)
