"""Images from the web, as a job needs them."""

import asyncio
import contextlib
import gc
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from bridgetower_train.errors import ConfigError
from data_prep.fetch.budget import Budget
from data_prep.fetch.client import Client
from data_prep.fetch.config import FetchConfig
from data_prep.fetch.crawl import Crawl, Ended
from data_prep.fetch.decode import prepare
from data_prep.fetch.decoders import Decoders
from data_prep.source.rows import Images, Outcome, Row

_NEW_OBJECTS = 200_000  # between two searches for garbage: about 30 MB


@dataclass(frozen=True)
class WebImages(Images):
    """Fetches `Row.location` as a URL, and prepares the images of shorter edge `size` in `workers` processes."""

    size: int
    workers: int
    config: FetchConfig

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        """The outcome of each row, in the order in which they end.

        Thread, connections and processes exist while the iterator runs; closing it ends them at once. Taking outcomes slowly
        slows the fetching. UserError where this machine is the cause, such as too few file descriptors.
        """
        allow_open_files(self.config.in_flight)
        with _rare_collections(), _Loop(self) as loop:
            waiting, more = 0, True
            while more or waiting:
                while more and waiting < self.config.ahead:
                    if item := next(rows, None):
                        loop.add(*item)
                        waiting += 1
                    else:
                        more = False
                if waiting:
                    yield loop.next()
                    waiting -= 1


class _Loop:
    """An event loop in its own thread, with everything that a crawl needs."""

    def __init__(self, images: WebImages) -> None:
        self._images = images
        self._ended: SimpleQueue[Ended | BaseException | Crawl] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._main = self._loop.create_task(self._crawl_until_cancelled())
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)

    def __enter__(self) -> "_Loop":
        self._thread.start()
        try:
            crawl = self._get()
            assert isinstance(crawl, Crawl)
            self._crawl = crawl
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()
        self._loop.close()

    def add(self, number: int, row: Row) -> None:
        """Fetch a row."""
        self._loop.call_soon_threadsafe(self._crawl.add, number, row)

    def next(self) -> tuple[int, Outcome]:
        """The number and outcome of the next row that ends."""
        ended = self._get()
        assert isinstance(ended, tuple)
        number, outcome, held = ended
        self._loop.call_soon_threadsafe(self._crawl.taken, held)
        return number, outcome

    def _get(self) -> Ended | Crawl:
        got = self._ended.get()
        if isinstance(got, BaseException):
            raise got
        return got

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # raised in `_get`
            self._ended.put(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _crawl_until_cancelled(self) -> None:
        config = self._images.config
        function = partial(prepare, size=self._images.size, config=config)
        async with Client(config) as client, Decoders(function, self._images.workers) as decoders:
            budget = Budget(config.memory_mb * 1_000_000)
            crawl = Crawl(config, client, decoders, budget, self._ended.put)
            self._ended.put(crawl)
            try:
                done, _ = await asyncio.wait(decoders.tasks, return_when=asyncio.FIRST_COMPLETED)
                done.pop().result()
            finally:
                await crawl.close()


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Make Python's search for cyclic garbage rare: it stops all threads and visits the objects of every connection.

    By default it runs once in 700 new objects, as many as a dozen connections have. Images do not need it: they are freed by
    their reference count.
    """
    usual = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def allow_open_files(connections: int) -> None:
    """Raise this process's limit of open files to what `connections` need; ConfigError where the system forbids it."""
    needed = connections * 3 // 2 + 256  # besides the active ones there are idle ones, processes and files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        most = max(1, (hard - 256) * 2 // 3)
        raise ConfigError(
            f"fetch.in_flight={connections}: needs {needed:,} open files, but the system allows {hard:,}; "
            f"raise `ulimit -n`, or set fetch.in_flight={most} at most"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
