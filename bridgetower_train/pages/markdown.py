"""Markdown for consoles, cards and docs."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; pipes and line breaks in its cells are escaped."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(str(value)) for value in row)} |" for row in cells)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
