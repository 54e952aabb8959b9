"""Rows to outcomes in an event loop: which row is fetched when."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from bridgetower_train.errors import UserError
from data_prep.fetch.addresses import parse
from data_prep.fetch.budget import Budget, Held
from data_prep.fetch.client import Client
from data_prep.fetch.config import FetchConfig
from data_prep.fetch.decoders import Decoders
from data_prep.fetch.states import UNANSWERED, NotAnImageError
from data_prep.source.rows import Outcome, Row

Item = tuple[int, Row, str]
"""Number of a row, the row, and its host."""
Ended = tuple[int, Outcome, Held]
"""Number of a row, its outcome, and the memory that it occupies until it is taken."""

_SILENT_HOSTS = 1000
"""If this number of hosts in a row gives no answer at all, the cause is not the hosts."""
_DOWN = (
    f"{_SILENT_HOSTS:,} hosts in a row gave no answer: the network or the DNS of this machine is down. None of them was "
    "recorded; run the same command to resume"
)


class Crawl:
    """Fetches at most `in_flight` rows at once, at most `per_host` of a host, otherwise in the order of arrival.

    A row whose host is busy waits in the queue of that host, and rows of other hosts overtake it. Rows without an answer are
    reported once a later one has got an answer: while the network is down, none must be recorded as dead.
    """

    def __init__(
        self,
        config: FetchConfig,
        client: Client,
        decoders: Decoders,
        budget: Budget,
        end: Callable[[Ended | BaseException], None],
    ) -> None:
        """`end` is called once for each row, or with an error that ends the crawl."""
        self._config = config
        self._client = client
        self._decoders = decoders
        self._budget = budget
        self._end = end
        self._ready: deque[Item] = deque()  # these have a slot at their host
        self._queues: dict[str, deque[Item]] = {}
        self._slots: Counter[str] = Counter()
        self._fetching = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0  # rows not yet ended
        self._silent: list[Ended] = []
        self._silent_hosts: set[str] = set()

    def add(self, number: int, row: Row) -> None:
        """Fetch a row when its turn comes."""
        host = _host(row)
        self._open += 1
        if self._slots[host] < self._config.per_host:
            self._slots[host] += 1
            self._ready.append((number, row, host))
        else:
            self._queues.setdefault(host, deque()).append((number, row, host))
        self.start()

    def start(self) -> None:
        """Begin with as many rows as fit."""
        while self._ready and self._fetching < self._config.in_flight and self._budget.has_room():
            self._fetching += 1
            task = asyncio.create_task(self._one(*self._ready.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def taken(self, held: Held) -> None:
        """Release the memory of an outcome that has been taken."""
        held.end()
        self.start()

    async def close(self) -> None:
        """Cancel all rows."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _one(self, number: int, row: Row, host: str) -> None:
        held = self._budget.begin()
        try:
            try:
                content, encoding = await self._client.fetch(row.location, held)
            finally:
                self._leave(host)
            held.end(keep=len(content))
            outcome = await self._decoders.decode(content, encoding, row.digest)
        except NotAnImageError as error:
            outcome = Outcome(error.state, error.detail)
        except UserError as error:
            self._end(error)
            return
        held.end(keep=len(outcome.jpeg))
        self._report((number, outcome, held), host)
        self.start()

    def _report(self, ended: Ended, host: str) -> None:
        self._open -= 1
        if ended[1].state in UNANSWERED:
            self._silent.append(ended)
            self._silent_hosts.add(host)
            if len(self._silent_hosts) == _SILENT_HOSTS:
                self._end(UserError(_DOWN))
            if self._open:
                return
        for silent in self._silent:
            self._end(silent)
        if ended[1].state not in UNANSWERED:
            self._end(ended)
        self._silent.clear()
        self._silent_hosts.clear()

    def _leave(self, host: str) -> None:
        """A fetch has ended: its slot at the host goes to the next in the queue."""
        self._fetching -= 1
        queue = self._queues.get(host)
        if queue:
            self._ready.append(queue.popleft())
        else:
            self._queues.pop(host, None)
            self._slots[host] -= 1
            if not self._slots[host]:
                del self._slots[host]
        self.start()


def _host(row: Row) -> str:
    try:
        return parse(row.location).host or ""
    except NotAnImageError:
        return ""
