"""Which validation of a run was the best, and when to wait for a better one no longer."""

import math
import operator
from collections.abc import Callable
from dataclasses import replace

from bridgetower_train.config import TrainConfig
from bridgetower_train.training.checkpoints import fingerprint
from bridgetower_train.training.validation import judged
from bridgetower_train.weights.checkpoint import Best

_KEYS = (
    "data.validation",
    *(f"validation.{key}" for key in ("samples", "batch", "retrieval", "captions", "rerank")),
)
"""Where these differ, the values of a metric cannot be compared."""


class BestSoFar:
    """Follows `checkpoint.best` over the validations of a run, and over its resumes."""

    def __init__(self, config: TrainConfig, found: Best | None, log: Callable[[str], None]) -> None:
        """`found` is what the checkpoint that the run resumes from knew."""
        self.metric, self.patience = config.checkpoint.best, config.validation.patience
        kind = ("validation.kind",) if config.validation.kind else ()  # which older checkpoints do not know
        self.of = fingerprint(config, _KEYS + kind)
        self.best = found if found and (found.metric, found.of) == (self.metric, self.of) else None
        """None before the first validation, and without `checkpoint.best`."""
        if self.metric:
            self._beats = operator.gt if judged(config)[self.metric].better == "max" else operator.lt
            if found and not self.best:
                log(f"{found.metric} of step {found.step} is no longer kept as the best: what is validated has changed")

    def judge(self, step: int, figures: dict[str, float]) -> bool:
        """Take in the validation of a step; whether it is the best so far. One that is not finite never is."""
        if not self.metric:
            return False
        value = figures[self.metric]
        better = math.isfinite(value) and (self.best is None or self._beats(value, self.best.value))
        if better:
            self.best = Best(self.metric, value, step, 0, self.of)
        elif self.best:
            self.best = replace(self.best, missed=self.best.missed + 1)
        return better

    @property
    def exhausted(self) -> str:
        """Why the run ends before its last step, as a sentence; empty as long as it goes on."""
        best = self.best
        if best is None or not 0 < self.patience <= best.missed:
            return ""
        return (
            f"{best.metric} has not improved in {best.missed} validations (validation.patience={self.patience}); it was best at "
            f"step {best.step}, {best.value:.4f}"
        )
