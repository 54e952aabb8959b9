"""Compatible versions on Gaudi: the one source for doctor, tests, Dockerfile presets and docs.

From Intel's support matrices, the DeepSpeed fork's tags, optimum-habana's releases and the names of published images.
"""

from dataclasses import dataclass

from packaging.version import Version


@dataclass(frozen=True)
class GaudiStack:
    """A release of the Gaudi software and what belongs to it."""

    software: str
    """First release with these versions: driver, firmware and user space."""
    torch: str
    """Major and minor version of the torch in its image."""
    pythons: tuple[str, ...]
    """Known Python versions of its images; others may exist."""
    deepspeed: str
    """Tag of github.com/HabanaAI/DeepSpeed."""
    optimum_habana: str
    """Releases validated with it, a specifier; empty if there is none."""
    transformers: str
    """The versions that these pin, a specifier."""
    generations: tuple[int, ...]
    """Generations of Gaudi that it supports."""


STACKS = (
    GaudiStack("1.20.0", "2.6", (), "1.20.0", ">=1.16,<=1.18", ">=4.45,<4.50", (1, 2, 3)),
    GaudiStack("1.21.0", "2.6", ("3.10", "3.11", "3.12"), "1.21.0", "==1.18.1", ">=4.51,<4.52", (1, 2, 3)),
    GaudiStack("1.22.0", "2.7", (), "1.22.0", ">=1.19,<1.20", ">=4.51,<4.52", (2, 3)),
    GaudiStack("1.23.0", "2.9", ("3.10", "3.11", "3.12"), "1.23.0", "==1.20.0", ">=4.55,<4.56", (2, 3)),
    # optimum-habana for 1.24 still installs the fork's tag 1.23.0.
    GaudiStack("1.24.0", "2.10", ("3.10", "3.12"), "1.23.0", ">=1.21,<1.22", ">=4.55,<4.56", (2, 3)),
    GaudiStack("1.24.1", "2.11", ("3.12",), "1.23.0", "", "", (2, 3)),
)
"""Ascending. Older releases have a torch before 2.6, which this package does not support."""

BOARDS = {"HL-20": 1, "HL-22": 2, "HL-28": 2, "HL-3": 3}
"""Prefix of a board's name, as `hl-smi` prints it -> generation."""


def stack_of(software: str) -> GaudiStack | None:
    """The stack of a release such as `1.21.1.16`; None if its minor version is not in the table."""
    given = Version(software)
    line = [s for s in STACKS if Version(s.software).release[:2] == given.release[:2] and Version(s.software) <= given]
    return line[-1] if line else None


def generation_of(board: str) -> int | None:
    """Generation of a board such as `HL-225`; None for an unknown board."""
    return next((generation for start, generation in BOARDS.items() if board.startswith(start)), None)
