"""Counts unexpected compilations: each takes seconds to minutes on one rank while the others wait."""

from collections import Counter
from collections.abc import Callable, Sequence

from bridgetower_train.config import Shape
from bridgetower_train.devices import Device
from bridgetower_train.errors import UserError

WARM_UP = 2
"""Number of first steps with a kind of pass and a shape in which compilations are expected: the device may count late."""


class RecompileGuard:
    """Counts graphs compiled in steps of which every pass has been warmed up. Reads only counters on the host.

    A graph belongs to the shape of a micro-batch and a kind of pass: the first micro-batch of a step leaves gradients, later ones
    add to them, and the last one averages them over the ranks.
    """

    def __init__(self, device: Device, max_recompiles: int, log: Callable[[str], None]) -> None:
        self.device, self.max_recompiles, self.log = device, max_recompiles, log
        self.count = 0
        self._known = device.compilations()
        self._steps: Counter[tuple[str, Shape]] = Counter()
        self._logged = False

    def check(self, step: int, shapes: Sequence[Shape]) -> None:
        """Check a step by the shapes of its micro-batches; UserError beyond `max_recompiles` compilations."""
        fresh = self.device.compilations() - self._known
        self._known += fresh
        kinds = ["later"] * len(shapes)
        kinds[-1], kinds[0] = "last", "first"
        passes = set(zip(kinds, shapes, strict=True))
        warm = all(self._steps[key] >= WARM_UP for key in passes)
        self._steps.update(passes)
        if not (fresh and warm):
            return
        self.count += fresh
        named = ", ".join(dict.fromkeys(map(str, sorted(shapes, key=lambda shape: shape.tokens))))
        self.log(f"step {step}: {fresh} graphs compiled for {named}, which had been compiled before")
        if self.count > self.max_recompiles:
            raise UserError(
                f"{self.count} graphs were compiled after the warm-up, more than guards.max_recompiles={self.max_recompiles}, "
                f"the last in step {step}, {named}. A shape or a constant changes between steps; raise the key to continue"
            )

    def logged(self) -> None:
        """Call after logging: compilations for the first line of metrics do not count."""
        if not self._logged:
            self._logged = True
            self.forget()

    def forget(self) -> None:
        """Ignore compilations since the last check, such as those of a validation."""
        self._known = self.device.compilations()
