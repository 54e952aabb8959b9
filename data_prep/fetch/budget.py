"""A limit to the bytes that all images together hold."""

import asyncio


class Budget:
    """Bytes in memory: `total`, and beyond it no more than one image's.

    When it is spent, images that are being read wait, all but the one that has been read for longest: so one always
    goes on, and what it holds comes free in the end.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._reading: dict[Held, None] = {}  # in the order in which they began
        self._waiting: dict[Held, asyncio.Future[None]] = {}
        self._nobody = Held(self)

    def has_room(self) -> bool:
        """Whether to begin with another image: the second half is for those that have begun."""
        return self.used < self.total / 2

    def begin(self) -> "Held":
        """An image that begins to be read."""
        held = Held(self)
        self._reading[held] = None
        return held

    async def _take(self, held: "Held", amount: int) -> None:
        while self.used + amount > self.total and next(iter(self._reading)) is not held:
            self._waiting[held] = asyncio.get_running_loop().create_future()
            try:
                await self._waiting[held]
            finally:
                del self._waiting[held]
        self._book(held, amount)
        if self.used < self.total:
            self._wake()

    def _book(self, held: "Held", amount: int) -> None:
        held.booked += amount
        self.used += amount

    def _wake(self) -> None:
        """Let the eldest reader, and the first of those that wait, look again."""
        for queue in (self._reading, self._waiting):
            future = self._waiting.get(next(iter(queue), self._nobody))
            if future is not None and not future.done():
                future.set_result(None)


class Held:
    """The bytes of one image, and their share of the budget."""

    def __init__(self, budget: Budget) -> None:
        self.booked = 0
        self.content = bytearray()
        """What has been read. It lies here because here it can be let go: an exception would keep it with its frame."""
        self._budget = budget

    async def add(self, chunk: bytes) -> None:
        """Append to `content`, as soon as there is room."""
        await self._budget._take(self, len(chunk))
        self.content += chunk

    def clear(self) -> None:
        """It is read once more from its beginning."""
        self._let_go(0)

    def end(self, keep: int = 0) -> None:
        """It is read no more, and `keep` bytes of it, or of what became of it, are held elsewhere from now on."""
        self._budget._reading.pop(self, None)
        self._let_go(keep)

    def _let_go(self, keep: int) -> None:
        self.content = bytearray()
        self._budget._book(self, keep - self.booked)
        self._budget._wake()
