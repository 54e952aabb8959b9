"""Compilations that a run should not need: each costs seconds to minutes, on one rank while the others wait."""

from collections import Counter
from collections.abc import Callable, Sequence

from bridgetower_train.devices import Device
from bridgetower_train.errors import UserError

WARM_UP = 2
"""Steps with a text length during which its graphs may be compiled: a count may come late."""


class RecompileGuard:
    """Counts graphs that were compiled in steps whose text lengths were warm. Reads the host's counters alone."""

    def __init__(self, device: Device, max_recompiles: int, log: Callable[[str], None]) -> None:
        self.device, self.max_recompiles, self.log = device, max_recompiles, log
        self.count = 0
        self._known = device.compilations()
        self._steps: Counter[int] = Counter()
        self._logged = False

    def check(self, step: int, lengths: Sequence[int]) -> None:
        """Take the text lengths of a step's micro-batches; UserError where more was compiled than `max_recompiles`."""
        fresh = self.device.compilations() - self._known
        self._known += fresh
        warm = all(self._steps[length] >= WARM_UP for length in lengths)
        self._steps.update(set(lengths))
        if not (fresh and warm):
            return
        self.count += fresh
        shapes = f"texts of {' and '.join(map(str, sorted(set(lengths))))} tokens"
        self.log(f"step {step}: {fresh} graphs compiled for {shapes}, whose graphs were there")
        if self.count > self.max_recompiles:
            raise UserError(
                f"{self.count} graphs were compiled after the warm-up, more than guards.max_recompiles={self.max_recompiles}; "
                f"the last in step {step}, {shapes}. A shape or a constant changes from step to step; raise the key to go on"
            )

    def logged(self) -> None:
        """The first line of metrics was written: what that compiled does not count."""
        if not self._logged:
            self._logged = True
            self.forget()

    def forget(self) -> None:
        """What was compiled since the last check does not count: it was a validation's."""
        self._known = self.device.compilations()
