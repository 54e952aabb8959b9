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

Item = tuple[int, Row, str, int]
"""Number of a row, the row, its host, and how often it was fetched before."""
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

    A row whose host is busy, or asked to be left alone, waits in the queue of that host, and rows of other hosts overtake it.
    Rows without an answer are reported once a later one has got an answer: while the network is down, none must be recorded as
    dead.
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
        self._resting: dict[str, asyncio.TimerHandle] = {}  # hosts that are left alone
        self._fetching = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0  # rows not yet ended
        self._silent: list[Ended] = []
        self._silent_hosts: set[str] = set()

    def add(self, number: int, row: Row) -> None:
        """Fetch a row when its turn comes."""
        host = _host(row)
        self._open += 1
        self._queues.setdefault(host, deque()).append((number, row, host, 0))
        self._make_ready(host)
        self.start()

    def start(self) -> None:
        """Begin with as many rows as fit."""
        while self._ready and self._fetching < self._config.in_flight and self._budget.has_room():
            item = self._ready.popleft()
            if item[2] in self._resting:
                self._queue_again(item)
                self._release(item[2])
                continue
            self._fetching += 1
            task = asyncio.create_task(self._one(*item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def taken(self, held: Held) -> None:
        """Release the memory of an outcome that has been taken."""
        held.end()
        self.start()

    async def close(self) -> None:
        """Cancel all rows."""
        for timer in self._resting.values():
            timer.cancel()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _one(self, number: int, row: Row, host: str, tries: int) -> None:
        held = self._budget.begin()
        try:
            try:
                content, encoding = await self._client.fetch(row.location, held, tries)
            except NotAnImageError as error:
                if self._rests(host, error.wait or 0) and tries < self._config.retries:
                    held.end()
                    self._queue_again((number, row, host, tries + 1))
                    return
                raise
            finally:
                self._fetching -= 1
                self._release(host)
                self.start()
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

    def _rests(self, host: str, wait: float) -> bool:
        """Leave a host alone for the seconds that it asks for. False where it asks for none, or for more than are waited for."""
        if wait:
            loop = asyncio.get_running_loop()
            until = loop.time() + min(wait, self._config.retry_after)
            if host in self._resting:
                until = max(until, self._resting[host].when())
                self._resting[host].cancel()
            self._resting[host] = loop.call_at(until, self._wake, host)
        return 0 < wait <= self._config.retry_after

    def _wake(self, host: str) -> None:
        del self._resting[host]
        self._make_ready(host)
        self.start()

    def _queue_again(self, item: Item) -> None:
        """Put a row back to the head of the queue of its host."""
        self._queues.setdefault(item[2], deque()).appendleft(item)

    def _release(self, host: str) -> None:
        """A slot at a host is free."""
        self._slots[host] -= 1
        if not self._slots[host]:
            del self._slots[host]
        self._make_ready(host)

    def _make_ready(self, host: str) -> None:
        """Give the free slots of a host to the rows in its queue."""
        queue = self._queues.get(host, deque())
        while queue and host not in self._resting and self._slots[host] < self._config.per_host:
            self._slots[host] += 1
            self._ready.append(queue.popleft())
        if not queue:
            self._queues.pop(host, None)


def _host(row: Row) -> str:
    try:
        return parse(row.location).host or ""
    except NotAnImageError:
        return ""
