"""Rows that are tried again: those that ended in certain states, into shards that follow the others."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice

from data_prep.job.log import read_from, read_states
from data_prep.shards.output import Output
from data_prep.source.rows import Part, RowsPart, Table

RANGES = "ranges"
"""Entry of a manifest's `extra` after a further pass: the number of ranges in it."""

Ranges = Mapping[int, Mapping[str, int]]
"""Number of a finished range -> state -> rows."""


def rows_again(output: Output, done: Ranges, passes: tuple[int, int], states: Sequence[str]) -> dict[int, str]:
    """Row -> state, of those that ended in one of `states` and have not been tried since.

    `passes`: the number of ranges of the first pass, and of all passes that are complete; the ranges in `done` that follow have
    tried their rows since. DataError where a log cannot be read.
    """
    first, complete = passes
    found: dict[int, str] = {}
    for number in sorted(done):
        if number < first and not any(state in done[number] for state in states):
            continue
        for row, state in read_from(output, number, read_states, "it and manifest.json,").items():
            found.pop(row, None)
            if number < complete and state in states:
                found[row] = state
    return dict(sorted(found.items()))


def parts_again(table: Table, rows: Mapping[int, str], first: int, done: Ranges, size: int) -> Iterator[Part]:
    """Parts of `size` rows each, whose numbers are those from `first` on that are not in `done`.

    Finished parts are whole, so the same rows are in each unfinished one, whenever a run was interrupted.
    """
    left = iter(rows)
    numbers = (number for number in count(first) if number not in done)
    while chosen := list(islice(left, size)):
        before = Counter(rows[row] for row in chosen)
        yield RowsPart(next(numbers), {row: table.rows(row, row + 1)[0] for row in chosen}, dict(before))
