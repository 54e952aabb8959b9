"""Guards that stop a run: too many updates that were skipped, too many unreadable records."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bridgetower_train.config import GuardsConfig
from bridgetower_train.errors import UserError

_WINDOW, _FEWEST = 100.0, 50.0
"""About how many gradient norms the running mean is over, and how many there are before an update is judged by it."""

NEW = MappingProxyType({"step": 0, "skipped": 0, "streak": 0, "spikes": 0, "running_norm": 0.0, "norms": 0})
"""What a checkpoint of a run that has not begun would say."""


class UpdateGuard:
    """Says which updates to skip, and counts them on the device; what is read waits for it, so only when logging or saving."""

    def __init__(self, config: GuardsConfig, device: torch.device, state: Mapping[str, Any] = NEW) -> None:
        """`state` is that of a checkpoint: what `state` returned, and its `step`."""
        self.config = config
        start, streak = state["step"], state["streak"]

        # A host number would be a new constant, and so a new graph, in every step.
        def number(value: float) -> Tensor:
            return torch.tensor(float(value), device=device)

        self._step, self._since = number(start), number(start - streak + 1)
        self._total, self._in_a_row, self._spikes = number(state["skipped"]), number(streak), number(state["spikes"])
        self._mean, self._norms = number(state["running_norm"]), number(state["norms"])

    @property
    def limit(self) -> Tensor | None:
        """The gradient norm beyond which the next update is skipped, a device scalar; None without such a guard."""
        if not self.config.max_grad_norm_ratio:
            return None
        return torch.where(self._norms < _FEWEST, torch.inf, self._mean * self.config.max_grad_norm_ratio)

    def record(self, skipped: Tensor, norm: Tensor) -> None:
        """Count the next step's update: `skipped` is 1 if it was skipped, otherwise 0; `norm` is that of its gradient."""
        self._step = self._step + 1
        self._since = torch.where(self._in_a_row == 0, self._step, self._since)
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._total = self._total + skipped
        self._spikes = self._spikes + skipped * torch.isfinite(norm)
        self._norms = self._norms + (1 - skipped)
        change = torch.where(skipped > 0, 0.0, norm - self._mean)
        self._mean = self._mean + change / self._norms.clamp(1.0, _WINDOW)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps, exactly (waits for the device)."""
        counts = {"skipped": self._total, "streak": self._in_a_row, "spikes": self._spikes, "norms": self._norms}
        return {name: int(count) for name, count in counts.items()} | {"running_norm": float(self._mean)}

    def figures(self) -> dict[str, float]:
        """What is logged (waits for the device)."""
        found = self.state()
        names = ("skipped", "spikes", "running_norm") if self.config.max_grad_norm_ratio else ("skipped",)
        return {name: found[name] for name in names}

    def streak(self) -> int | None:
        """The first step of `max_skipped` or more skipped updates in a row; None if there were fewer."""
        return int(self._since) if int(self._in_a_row) >= self.config.max_skipped else None

    @property
    def reason(self) -> str:
        """Why updates are skipped, as the beginning of a sentence (waits for the device)."""
        if ratio := self.config.max_grad_norm_ratio:
            return (
                f"the gradient norm was not finite, or more than guards.max_grad_norm_ratio={ratio:g} times its running mean of "
                f"{float(self._mean):.3g},"
            )
        return "the loss or the gradient was not finite"


def check_bad_records(bad: int, seen: int, max_fraction: float, shards: list[str]) -> None:
    """UserError if more than `max_fraction` of the records seen (taken as 1,000 at least) could not be used."""
    if bad > max_fraction * max(seen, 1000):
        raise UserError(
            f"{bad} of {seen} records could not be used, more than data.max_bad_fraction={max_fraction:g}; the last ones are in "
            f"{', '.join(shards[-5:])}. See bad_samples.jsonl in the run folder; rebuild the index (`bridgetower prep index`) "
            "or raise data.max_bad_fraction"
        )
