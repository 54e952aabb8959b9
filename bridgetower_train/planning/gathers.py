"""How often ZeRO-3 gathers each weight: DeepSpeed's rules of fetching and letting go, played through on a recorded pass.

The rules are those of `deepspeed.runtime.zero` (parameter_offload.py and partitioned_param_coordinator.py, version 0.19.8), as
they hold once it has seen a pass: a module's weights are fetched when it is used, and those of the next uses ahead of them. They
go when it is done, but for those that are used again soon, or that looking ahead has met again while they were there.
"""

from collections import deque
from dataclasses import dataclass

from bridgetower_train.engines.zero_weights import Zero3Settings
from bridgetower_train.planning.uses import Uses


@dataclass(frozen=True)
class Gathers:
    """Of one optimizer step under ZeRO-3."""

    sizes: list[int]
    """Elements of each weight."""
    first: list[int]
    """How often the first micro-batch gathers it."""
    further: list[int]
    """How often each one after that does."""
    updated: list[int]
    """How often the update does: once for those that are not divided."""
    live: int
    """The most elements of divided weights that are there at once."""

    def elements(self, ranks: int, micro_batches: int) -> int:
        """Of all weights that are gathered, each filled up to equal parts for the `ranks`."""
        counts = zip(self.sizes, self.first, self.further, self.updated, strict=True)
        return sum(
            (first + (micro_batches - 1) * further + updated) * ranks * -(-size // ranks)
            for size, first, further, updated in counts
        )


def gathers(uses: Uses, limits: Zero3Settings) -> Gathers:
    """Play two micro-batches through; all after the first are alike."""
    play = _FetchSimulator(uses, limits)
    first, further = play.micro_batch(), play.micro_batch()
    return Gathers(uses.sizes, first, further, [int(stays) for stays in play.stays], play.live)


class _FetchSimulator:
    """The weights of one rank while modules use them."""

    def __init__(self, uses: Uses, limits: Zero3Settings) -> None:
        self.uses, self.limits, self.sizes = uses, limits, uses.sizes
        self.order = [use.module for use in uses.events if use.begins]
        self.stays = [size <= limits.persistent for size in uses.sizes]
        self.here = {p for p, stays in enumerate(self.stays) if stays}
        self.coming: set[int] = set()
        """Fetched ahead and not yet used."""
        self.users: list[set[int]] = [set() for _ in uses.sizes]
        self.free_after: dict[tuple[int, int], set[int]] = {}
        self.live = 0

    def micro_batch(self) -> list[int]:
        """How often a forward and backward pass gathers each weight."""
        self.counts = [0] * len(self.sizes)
        self.coming.clear()
        self.queue = deque((p, at) for at, module in enumerate(self.order) for p in sorted(set(self.uses.own[module])))
        self.last_met = [-1] * len(self.sizes)
        """The latest use of a weight that the look-ahead has come to."""
        self.at = self.fetched = 0
        backward: dict[int, None] = {}
        for use in self.uses.events:
            if use.begins:
                self._use(use.module)
            else:
                self._leave(use.module, self._free_after(use.module))
            if use.begins and not use.forward:
                backward[use.module] = None
            elif not use.forward:
                backward.pop(use.module, None)
        for module in reversed(backward):  # those whose end was not seen
            self._leave(module, {p for p in self.uses.own[module] if not self.stays[p]})
        return self.counts

    def _use(self, module: int) -> None:
        needed = set(self.uses.own[module])
        self._gather(needed - self.here - self.coming)
        self.here |= needed
        self.coming -= needed
        for p in needed:
            self.users[p].add(module)
        new = sum(self.last_met[p] < self.at for p in needed)
        met: set[int] = set()
        while self.queue and len(met) < new:
            p, self.last_met[p] = self.queue.popleft()
            met.add(p)
        self._look_ahead()
        self.at += 1

    def _look_ahead(self) -> None:
        room = min(self.limits.live - self.fetched, self.limits.prefetch)
        ahead: set[int] = set()
        while self.queue and room > 0:
            p, at = self.queue.popleft()
            self.last_met[p] = max(self.last_met[p], at)
            if p not in self.here and p not in self.coming and p not in ahead:
                ahead.add(p)
                room -= self.sizes[p]
        self._gather(ahead)
        self.coming |= ahead

    def _gather(self, absent: set[int]) -> None:
        for p in absent:
            self.counts[p] += 1
            self.fetched += self.sizes[p]
        if absent:
            there = self.here | self.coming | absent
            self.live = max(self.live, sum(self.sizes[p] for p in there if not self.stays[p]))

    def _leave(self, module: int, free: set[int]) -> None:
        for p in self.uses.own[module]:
            self.users[p].discard(module)
            if p in free and p in self.here and not self.users[p]:
                self.here.remove(p)
                self.fetched -= self.sizes[p]

    def _free_after(self, module: int) -> set[int]:
        """Weights of a module that are not kept for a use to come; found out once, as by DeepSpeed."""
        if (module, self.at) not in self.free_after:
            free = {p for p in self.uses.own[module] if not self.stays[p] and self.last_met[p] <= self.at}
            passed = 0
            for later in self.order[self.at :]:
                if passed >= self.limits.reuse:
                    break
                again = self.uses.whole[later] if module in self.uses.leaves else self.uses.own[later]
                free.difference_update(again)
                passed += sum(self.sizes[p] for p in again)
            self.free_after[module, self.at] = free
        return self.free_after[module, self.at]
