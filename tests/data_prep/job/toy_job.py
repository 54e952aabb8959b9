"""A preparation that a test may stop: `python toy_job.py OUT HAD SECONDS [key=value ...]`, its images slow and out of order.

HAD is a file to which the number of each image is appended once the job has it.
"""

import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.job.job import JobConfig, run_job
from data_prep.source.rows import OK, Outcome, Row

ABOUT = {"title": "Toy", "homepage": "", "licence": "none", "note": ""}


@dataclass(frozen=True)
class ToyTable:
    """Rows of which some have no image to give, some no caption, some the key of another."""

    length: int = 200
    version: str = "1"

    def __len__(self) -> int:
        return self.length

    def rows(self, start: int, stop: int) -> list[Row]:
        return [self.row(number) for number in range(start, stop)]

    def row(self, number: int) -> Row:
        key = number - 1 if number % 50 == 7 else number
        captions = [] if number % 40 == 3 else [f"caption {i} of {number}" for i in range(1 + number % 3)]
        state = "duplicate" if number % 30 == 5 or 20 <= number < 40 else ""  # 20 to 39 are two whole ranges
        return Row(f"{key:06d}", f"http://example.org/{number}.jpg", captions, {"number": number}, state=state)

    def identity(self) -> dict[str, str]:
        return {"toy.tsv": self.version, "length": str(self.length)}


@dataclass(frozen=True)
class ToyImages:
    """Images that come a few at a time, the later ones first; every 20th is not found."""

    size: int
    had: str = ""
    seconds: float = 0.0
    found: tuple[int, ...] = ()
    """Those of every 20th that are found after all."""

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        waiting: list[tuple[int, Row]] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) == 15:
                yield from self._some(waiting)
        while waiting:
            yield from self._some(waiting)

    def _some(self, waiting: list[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        for _ in range(min(7, len(waiting))):
            ticket, row = waiting.pop()
            assert row.captions
            time.sleep(self.seconds)
            number = row.meta["number"]
            yield ticket, self._image(number)
            if self.had:
                with open(self.had, "ab", buffering=0) as file:
                    file.write(b"%d\n" % number)

    def _image(self, number: int) -> Outcome:
        if number % 20 == 11 and number not in self.found:
            return Outcome("404", f"Not Found: {number}")
        out = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 255, (self.size, 2 * self.size, 3)).astype(np.uint8)
        Image.fromarray(noise).save(out, "JPEG")
        return Outcome(OK, "", out.getvalue(), {"sha256": f"{number:064x}", "width": number, "height": 1})


def config(out: Path | str, **keys: Any) -> JobConfig:
    """The toy's settings: ten rows a shard."""
    return JobConfig(**{"out": str(out), "name": "toy", "size": 24, "records_per_shard": 10, "workers": 1, **keys})


def prepare(out: Path | str, table: ToyTable | None = None, had: str = "", seconds: float = 0.0, **keys: Any) -> Any:
    """Run the toy job."""
    job = config(out, **keys)
    return run_job(job, ToyTable() if table is None else table, ToyImages(job.size, had, seconds), ABOUT)


def files(folder: Path) -> dict[str, bytes]:
    """All that must be the same whatever happened on the way."""
    left_out = ("lock", "preparation.json")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in left_out]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    from bridgetower_train.errors import UserError

    try:
        keys = dict(argument.split("=") for argument in sys.argv[4:])
        prepare(sys.argv[1], ToyTable(), sys.argv[2], float(sys.argv[3]), **keys)
    except UserError as error:
        sys.exit(f"error: {error}")
