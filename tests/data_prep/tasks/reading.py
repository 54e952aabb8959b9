"""Reading what a preparation has written, and changing what it reads."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridgetower_train.data.shards import Corpus, Record, open_corpus


def records(root: Path, name: str) -> tuple[Corpus, list[Record]]:
    """A corpus, and all its records."""
    corpus = open_corpus(str(root), name)
    return corpus, [corpus.read(row) for row in range(corpus.manifest.images)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, lines: Iterable[Any]) -> Path:
    """Write objects as JSON lines, and texts as they are."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def names(root: Path, name: str, file: str = "classes.json") -> list[str]:
    """The names beside the shards of a corpus."""
    found: list[str] = json.loads((root / name / file).read_text())
    return found
