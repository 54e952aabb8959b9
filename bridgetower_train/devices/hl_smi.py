"""Parses what `hl-smi`, the vendor's tool, reports about driver and cards."""

import re
from dataclasses import dataclass

QUERY = ("-Q", "index,module_id,name,memory.total,memory.used", "-f", "csv,noheader")
"""Arguments for one line per card."""


@dataclass(frozen=True)
class Card:
    """One Gaudi."""

    index: int
    module: int
    board: str
    memory_mib: int
    used_mib: int


def parse_driver(table: str) -> str | None:
    """Version of the driver in the table that `hl-smi` prints without arguments: `1.21.1` of `1.21.1-3bf9e81`."""
    match = re.search(r"^\|\s*Driver Version:\s*([0-9]+(?:\.[0-9]+)+)", table, re.MULTILINE)
    return match[1] if match else None


def parse_cards(csv: str) -> list[Card]:
    """The cards in the output of QUERY, in its order; lines that are not a card are ignored."""
    cards = []
    for line in csv.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[0].isdigit() and fields[1].isdigit():
            total, used = (int(field.split()[0]) if field[:1].isdigit() else 0 for field in fields[3:])
            cards.append(Card(int(fields[0]), int(fields[1]), fields[2], total, used))
    return cards
