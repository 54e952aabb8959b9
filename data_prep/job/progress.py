"""Progress of a preparation: a bar on a terminal, a line every half minute elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Mapping

from tqdm import tqdm

from data_prep.source.rows import OK

_EVERY_SECONDS = 30.0


class Progress:
    """Counts rows by state and shows images/s, yield and the remaining time."""

    def __init__(self, name: str, rows: int | None, parts: int = 0) -> None:
        """`rows`: of the source; None where the rows of its `parts` are not known yet."""
        self._name = name
        self._rows = rows
        self._parts = parts if rows is None else 0
        self._read: list[int] = []
        self._states: Counter[str] = Counter()
        self._before = 0  # rows of earlier runs
        self._start = self._shown = time.monotonic()
        self._bar = tqdm(total=rows, desc=name, unit=" rows", smoothing=0.05, disable=not sys.stderr.isatty())

    def resume(self, states: Mapping[str, int]) -> None:
        """Count rows of earlier runs."""
        self._states.update(states)
        self._before += sum(states.values())
        self._bar.initial = self._before
        self._bar.update(sum(states.values()))

    def update(self, states: Mapping[str, int]) -> None:
        """Count rows of this run."""
        self._states.update(states)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"yield {self.share:.1%}", refresh=False)
            self._bar.update(sum(states.values()))
        elif time.monotonic() - self._shown > _EVERY_SECONDS:
            self._shown = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    @property
    def share(self) -> float:
        """The yield so far: the fraction of rows that gave an image."""
        return self._states[OK] / max(1, self._states.total())

    def line(self) -> str:
        """The progress as text."""
        done = self._states.total()
        rate = (done - self._before) / max(1e-9, time.monotonic() - self._start)
        speed = f"{rate:,.0f} images/s, yield {self.share:.1%}"
        if self._rows is None:
            return f"{self._name}: {done:,} rows, {speed}"
        left = tqdm.format_interval((self._rows - done) / rate) if rate else "?"
        return f"{self._name}: {done:,} of {self._rows:,} rows ({done / max(1, self._rows):.1%}), {speed}, {left} left"

    def expect(self, rows: int) -> None:
        """One more part has been read, of so many rows: the others will have as many on average."""
        if self._parts:
            self._read.append(rows)
            self._rows = self._bar.total = sum(self._read) * self._parts // len(self._read)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
