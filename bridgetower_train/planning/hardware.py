"""Cards and their links, as their vendor publishes them. What nobody publishes is None."""

import re
from dataclasses import dataclass

from bridgetower_train.errors import ConfigError, nearest

GIB = 2**30
GBIT = 1e9 / 8


@dataclass(frozen=True)
class Card:
    """One accelerator, with its share of the host's links."""

    name: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes per second between it and its memory."""
    peak: float | None
    """Dense bf16 FLOP/s; None where the vendor never published one."""
    scale_up: float
    """Bytes per second, one direction, to the other cards of its host together."""
    scale_out: float
    """Bytes per second, one direction, to other hosts."""
    fused_attention: bool
    """Whether attention keeps no matrix of queries by keys for the backward pass."""
    per_host: int = 8


CARDS = {
    # HL-205: 32 GB HBM2, ten ports of 100 Gb/s, seven of them within the host. No peak was ever published; about 1 TB/s is from
    # vendor briefs. That its fused attention trains was not established.
    "gaudi1": Card("gaudi1", 32 * GIB, 1.0e12, None, 700 * GBIT, 300 * GBIT, False),
    # HL-225: 96 GB HBM2E, 24 ports of 100 Gb/s, 21 of them within the host.
    "gaudi2": Card("gaudi2", 96 * GIB, 2.45e12, 432e12, 2100 * GBIT, 300 * GBIT, True),
    # HL-325L: 128 GB HBM2e, 24 ports of 200 Gb/s, 21 of them within the host.
    "gaudi3": Card("gaudi3", 128 * GIB, 3.7e12, 1835e12, 4200 * GBIT, 600 * GBIT, True),
}
"""Intel's figures. AWS's DL1 has Gaudi1 with 400 Gb/s for the whole host instead of its own scale-out ports."""


@dataclass(frozen=True)
class Cluster:
    """Equal cards, eight to a host."""

    card: Card
    cards: int

    @property
    def hosts(self) -> int:
        """Hosts, the last one perhaps partly filled."""
        return -(-self.cards // self.card.per_host)


def parse(text: str) -> Cluster:
    """Read `gaudi2x512`; ConfigError where that is no known card or no number of them."""
    match = re.fullmatch(r"(\w+?)x([1-9][0-9]*)", text)
    if match is None or match[1] not in CARDS:
        near = nearest(match[1] if match else text, CARDS)
        raise ConfigError(
            f"hardware={text}: must be a card and a number, as gaudi2x512; cards: {', '.join(CARDS)}{near}"
        )
    cards = int(match[2])
    if cards > 8 and cards % 8:
        raise ConfigError(f"hardware={text}: hosts hold 8; take {cards // 8 * 8} or {-(-cards // 8) * 8}")
    return Cluster(CARDS[match[1]], cards)
