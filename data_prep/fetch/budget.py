"""A limit to the bytes of all images in memory."""

import asyncio


class Budget:
    """Bytes in memory: `total`, and beyond it at most those of one image.

    When it is used up, images that are being read wait, except the one that was begun first: so one always proceeds, and its
    bytes are released in the end.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._reading: dict[Held, None] = {}  # in the order in which they began
        self._waiting: dict[Held, asyncio.Future[None]] = {}
        self._nobody = Held(self)

    def has_room(self) -> bool:
        """Whether another image may begin: the second half is reserved for those that have begun."""
        return self.used < self.total / 2

    def begin(self) -> "Held":
        """Begin to read an image."""
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
        """Wake the oldest reader and the first one that waits."""
        for queue in (self._reading, self._waiting):
            future = self._waiting.get(next(iter(queue), self._nobody))
            if future is not None and not future.done():
                future.set_result(None)


class Held:
    """The bytes of one image, and their share of the budget."""

    def __init__(self, budget: Budget) -> None:
        self.booked = 0
        self.content = bytearray()
        """What has been read. It is stored here so that it can be released: an exception would keep it with its frame."""
        self._budget = budget

    async def add(self, chunk: bytes) -> None:
        """Append to `content` as soon as there is room."""
        await self._budget._take(self, len(chunk))
        self.content += chunk

    def clear(self) -> None:
        """Start over: the image is fetched again."""
        self._release(0)

    def end(self, keep: int = 0) -> None:
        """Reading has ended; `keep` bytes of the image, or of its result, stay in memory elsewhere."""
        self._budget._reading.pop(self, None)
        self._release(keep)

    def _release(self, keep: int) -> None:
        self.content = bytearray()
        self._budget._book(self, keep - self.booked)
        self._budget._wake()
