"""Processes that decode, resize and encode, fed from an event loop.

A pool of the standard library breaks as a whole when one of its processes is killed, and does not tell over which task; with
images from the web, that happens. Here each process has its own socket, so its image is known.
"""

import asyncio
import contextlib
import pickle
import signal
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from bridgetower_train.errors import UserError
from data_prep.fetch.states import DECODER_DIED, DECODER_TIMED_OUT
from data_prep.parallel import start_worker, worker_context
from data_prep.source.rows import Outcome

Decode = Callable[[bytes, str, str], Outcome]
"""Content, Content-Encoding and published digest of an image to its outcome. It is pickled."""

_READY = b"\1"
_LENGTH = struct.Struct("<Q")
_SENT = 2  # images sent to a process at once, so that it need not wait for the next
_LIVES = 2
_SECONDS = 20  # of a core for one image: ten times what the check of `bridgetower_train.data.image` lets through
_STARTS = 3
_IMPORTED = (__name__, "data_prep.fetch.decode")  # once, by the server that forks them


@dataclass
class _Job:
    arguments: tuple[bytes, str, str]
    outcome: "asyncio.Future[Outcome]"
    deaths: int = 0


class Decoders:
    """`workers` processes that run `function`. An asynchronous context manager; leaving it ends the processes.

    One that computes for more than `seconds` over an image is killed, by a clock that stands still while others have its core.
    """

    def __init__(self, function: Decode, workers: int, seconds: float = _SECONDS) -> None:
        self._function = function
        self._workers = workers
        self._seconds = seconds
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()

    async def __aenter__(self) -> "Decoders":
        self.tasks = [asyncio.create_task(self._serve()) for _ in range(self._workers)]
        """They end only with an error, such as processes that cannot start."""
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def decode(self, content: bytes, encoding: str, digest: str) -> Outcome:
        """The outcome of an image; DECODER_DIED where two processes died over it, DECODER_TIMED_OUT where one took too long."""
        job = _Job((content, encoding, digest), asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.outcome

    async def _serve(self) -> None:
        """Keep one process running, and replace it when it dies."""
        failed = 0
        while failed < _STARTS:
            async with _process(self._function, self._seconds) as (process, connection):
                reader, writer = await asyncio.open_unix_connection(sock=connection)
                with contextlib.closing(writer):
                    failed += 1
                    if await reader.read(1) == _READY:
                        failed = 0
                        await self._feed(process, reader, writer)
        raise UserError(
            f"{failed} decoding processes in a row ended before they began, exit code {process.exitcode}; run again with "
            "fewer `workers`"
        )

    async def _feed(self, process: BaseProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send jobs to a process, two at a time, until it dies."""
        sent: deque[_Job] = deque()
        try:
            while True:
                while not sent or (len(sent) < _SENT and not self._jobs.empty()):
                    job = await self._jobs.get()
                    if not job.outcome.cancelled():
                        sent.append(job)
                        writer.write(_frame(job.arguments))
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                outcome = pickle.loads(await reader.readexactly(length))
                _answer(sent.popleft(), outcome)
        except (ConnectionError, asyncio.IncompleteReadError):
            process.join()
            self._blame(sent, process.exitcode)

    def _blame(self, sent: deque[_Job], exitcode: int | None) -> None:
        """A process died over the first of its images; the others go back to the queue."""
        sent[0].deaths += 1
        if exitcode == -signal.SIGPROF:
            _answer(sent.popleft(), Outcome(DECODER_TIMED_OUT, f"over {self._seconds:g} s of a core"))
        elif sent[0].deaths == _LIVES:
            _answer(sent.popleft(), Outcome(DECODER_DIED, f"exit code {exitcode}"))
        for job in sent:
            self._jobs.put_nowait(job)


@contextlib.asynccontextmanager
async def _process(function: Decode, seconds: float) -> AsyncIterator[tuple[BaseProcess, socket.socket]]:
    """A decoding process that ends with the context, and the socket to it."""
    here, there = socket.socketpair()
    with here:
        with there:
            process = worker_context(*_IMPORTED).Process(target=_work, args=(there, function, seconds), daemon=True)
            await _start(process)
        try:
            yield process, here
        finally:
            process.kill()
            process.join()


async def _start(process: BaseProcess) -> None:
    """Start a process without blocking the loop: the first one waits for the imports of the server."""
    starting = asyncio.ensure_future(asyncio.to_thread(process.start))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await starting
        process.kill()
        process.join()
        raise


def _answer(job: _Job, outcome: Outcome) -> None:
    if not job.outcome.done():
        job.outcome.set_result(outcome)


def _frame(message: object) -> bytes:
    payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(payload)) + payload


def _work(connection: socket.socket, function: Decode, seconds: float) -> None:
    """A decoding process: answers images in order until the other end closes. SIGPROF ends it over one that takes too long."""
    start_worker()
    with connection, connection.makefile("rb") as requests, contextlib.suppress(ConnectionError):
        connection.sendall(_READY)
        while header := requests.read(_LENGTH.size):
            (length,) = _LENGTH.unpack(header)
            arguments = pickle.loads(requests.read(length))
            signal.setitimer(signal.ITIMER_PROF, seconds)
            answer = _frame(function(*arguments))
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.sendall(answer)
