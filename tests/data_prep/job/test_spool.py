"""Outcomes of unfinished shards: records of one image and of several."""

from pathlib import Path

import pytest

from data_prep.job.spool import Spool
from data_prep.source.rows import OK, Outcome

OUTCOMES = {
    3: Outcome(OK, "", b"first", {"width": 5}),
    4: Outcome("404", "detail", b"", {}),
    5: Outcome(OK, "", b"one", {"sha256": "a"}, (b"two", b"")),
}


@pytest.mark.parametrize("row", OUTCOMES)
def test_an_outcome_is_what_was_added(tmp_path: Path, row: int) -> None:
    spool = Spool(tmp_path / "spool" / "000000")
    for number, outcome in OUTCOMES.items():
        spool.add(number, outcome)
    spool.close()
    again = Spool(tmp_path / "spool" / "000000")
    assert again.get(row) == OUTCOMES[row]
    again.close()
