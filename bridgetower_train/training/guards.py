"""Guards that stop a run: too many updates that were not finite, too many unreadable records."""

import torch
from torch import Tensor

from bridgetower_train.errors import UserError


class NonFiniteGuard:
    """Counts skipped updates on the device; what is read waits for it, so only when logging or saving."""

    def __init__(
        self, max_skipped: int, device: torch.device, start: int = 0, skipped: int = 0, streak: int = 0
    ) -> None:
        """The run resumes after `start` steps, of which `skipped` were skipped, the last `streak` of them in a row."""
        self.max_skipped = max_skipped
        self._total = torch.tensor(float(skipped), device=device)
        self._in_a_row = torch.tensor(float(streak), device=device)
        self._since = torch.tensor(float(start - streak + 1), device=device)
        # A host number would be a new constant, and so a new graph, in every step.
        self._step = torch.tensor(float(start), device=device)

    def record(self, skipped: Tensor) -> None:
        """Count the next step's update: `skipped` is 1 if it was skipped, otherwise 0."""
        self._step = self._step + 1
        self._since = torch.where(self._in_a_row == 0, self._step, self._since)
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._total = self._total + skipped

    @property
    def total(self) -> int:
        """Updates skipped in the run so far (waits for the device)."""
        return int(self._total)

    @property
    def in_a_row(self) -> int:
        """Updates skipped in a row up to now (waits for the device)."""
        return int(self._in_a_row)

    def streak(self) -> int | None:
        """The first step of `max_skipped` or more skipped updates in a row; None if there were fewer."""
        return int(self._since) if self.in_a_row >= self.max_skipped else None


def check_bad_records(bad: int, seen: int, max_fraction: float, shards: list[str]) -> None:
    """UserError if more than `max_fraction` of the records seen (taken as 1,000 at least) could not be used."""
    if bad > max_fraction * max(seen, 1000):
        raise UserError(
            f"{bad} of {seen} records could not be used, more than data.max_bad_fraction={max_fraction:g}; the last ones are in "
            f"{', '.join(shards[-5:])}. See bad_samples.jsonl in the run folder; rebuild the index (`bridgetower prep index`) "
            "or raise data.max_bad_fraction"
        )
