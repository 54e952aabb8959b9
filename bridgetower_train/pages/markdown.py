"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Iterable[object]], left: int = 1) -> str:
    """A table. Its first `left` columns are aligned to the left, the others, of numbers, to the right."""
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    lines = [map(cell, header), rule, *(map(cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def one_line(text: object) -> str:
    """Text without line breaks and repeated blanks."""
    return " ".join(str(text).split())


def cell(text: object) -> str:
    """Text for a cell of a table."""
    return one_line(text).replace("|", "\\|")
