"""Checks that several keys share, and the length of a run."""

import re
from dataclasses import dataclass

from bridgetower_train.errors import ConfigError, nearest

TEMPLATES = ["a photo of a {}."]
"""Prompts of zero-shot classification: CLIP's."""


def one_of(key: str, given: str, allowed: tuple[str, ...]) -> None:
    """ConfigError unless `given` is one of `allowed`."""
    if given not in allowed:
        raise ConfigError(f"{key}={given}: must be one of {', '.join(allowed)}{nearest(given, allowed)}")


def at_least(key: str, given: float, minimum: float) -> None:
    """ConfigError unless `given >= minimum`."""
    if not given >= minimum:
        raise ConfigError(f"{key}={given}: must be at least {minimum:g}")


def check_templates(key: str, templates: list[str]) -> None:
    """ConfigError unless there are prompts, and the name of a class has a place in each."""
    if not templates or not all("{}" in template for template in templates):
        raise ConfigError(
            f"{key}={templates}: needs prompts in which {{}} stands for the class: '{key}=[a photo of a {{}}.]'"
        )


@dataclass(frozen=True)
class Duration:
    """A length of training: `1000` or `1000 steps`, `2e6 samples`, `10 epochs`, or `10%` of the run."""

    amount: float
    unit: str

    @staticmethod
    def parse(key: str, text: str) -> "Duration":
        """Parse `text`; ConfigError naming `key` if it is not a duration."""
        match = re.fullmatch(
            r"\s*((?:[0-9]{1,18}\.?[0-9]*|\.[0-9]+)(?:e[0-9]{1,2})?)\s*(|steps?|samples?|epochs?|%)\s*", text
        )
        if match is None:
            raise ConfigError(f"{key}={text}: must be steps (1000), '2e6 samples', '10 epochs' or '10%' of the run")
        return Duration(float(match[1]), match[2].rstrip("s") or "step")

    def steps(self, global_batch: int, epoch_samples: int, run_steps: int = 0) -> int:
        """The length in optimizer steps, rounded up; `run_steps` is what a percentage refers to."""
        samples = {"sample": self.amount, "epoch": self.amount * epoch_samples}
        if self.unit == "%":
            return round(self.amount / 100 * run_steps)
        if self.unit == "step":
            return int(self.amount)
        return -int(-samples[self.unit] // global_batch)


@dataclass(frozen=True)
class RunLength:
    """How long a run is, and with it how many steps a duration has."""

    global_batch: int
    epoch_samples: int
    """Samples per epoch."""
    steps: int
    """Optimizer steps."""

    @staticmethod
    def of(steps: str, global_batch: int, epoch_samples: int) -> "RunLength":
        """Of a run with the key `steps`. ConfigError if that is less than one step."""
        length = Duration.parse("steps", steps).steps(global_batch, epoch_samples)
        if length < 1:
            raise ConfigError(f"steps={steps}: must be at least one step")
        return RunLength(global_batch, epoch_samples, length)

    def in_steps(self, key: str, duration: str) -> int:
        """Optimizer steps of a duration, the value of `key`."""
        return Duration.parse(key, duration).steps(self.global_batch, self.epoch_samples, self.steps)

    def every(self, key: str, duration: str) -> int:
        """Steps from one time to the next of what is done every `duration`: at least 1, and 0 only where `duration` is 0."""
        return self.in_steps(key, duration) or int(Duration.parse(key, duration).amount > 0)


def divisors(number: int) -> list[int]:
    """The divisors of `number` up to 65,536, ascending."""
    return [n for n in range(1, min(number, 1 << 16) + 1) if number % n == 0]


def nearest_of(numbers: list[int], wanted: int, joined: str = " and ") -> str:
    """The two of `numbers` that are nearest to `wanted`, ascending, for a message; `none` where there are none."""
    near = sorted(sorted(numbers, key=lambda n: abs(n - wanted))[:2])
    return joined.join(map(str, near)) or "none"
