"""Counting what went wrong on the device, without asking it on every step."""

import torch
from torch import Tensor

from bridgetower_train.errors import UserError


class NonFiniteGuard:
    """Counts skipped updates on the device; `total` and `streak` read the counts when a line is logged anyway."""

    def __init__(self, max_skipped: int, device: torch.device, start: int = 0, skipped: int = 0) -> None:
        """`start` steps, of which `skipped` were skipped, are behind."""
        self.max_skipped = max_skipped
        self._total = torch.tensor(float(skipped), device=device)
        self._in_a_row = torch.zeros((), device=device)
        self._since = torch.zeros((), device=device)
        # A number of the host would be another constant, and so another graph, in every step.
        self._step = torch.tensor(float(start), device=device)

    def record(self, skipped: Tensor) -> None:
        """Take the 0 or 1 of the next step's update."""
        self._step = self._step + 1
        self._since = torch.where(self._in_a_row == 0, self._step, self._since)
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._total = self._total + skipped

    @property
    def total(self) -> int:
        """Updates skipped in the run so far (waits for the device)."""
        return int(self._total)

    def streak(self) -> int | None:
        """The step at which `max_skipped` updates in a row began to be skipped; None where they were not."""
        return int(self._since) if int(self._in_a_row) >= self.max_skipped else None


def check_bad_records(bad: int, seen: int, max_fraction: float, shards: list[str]) -> None:
    """UserError where more than `max_fraction` of the records were unreadable (of the first thousand, at least)."""
    if bad > max_fraction * max(seen, 1000):
        raise UserError(
            f"{bad} of {seen} records could not be used, more than data.max_bad_fraction={max_fraction:g}; the last ones lie in "
            f"{', '.join(shards[-5:])}. See bad_samples.jsonl in the run folder; mend the shards (`bridgetower prep index`) "
            "or raise the key"
        )
