"""Processes that decode, resize and encode, fed from an event loop.

A pool of the standard library breaks as a whole when one of its processes is killed, and does not say over which task; on
images from the web, that happens. Here each process has a socket of its own, so it is known which image it had.
"""

import asyncio
import contextlib
import pickle
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from types import TracebackType

from bridgetower_train.errors import UserError
from data_prep.fetch.states import DECODER_DIED
from data_prep.parallel import start_worker, worker_context
from data_prep.source.rows import Outcome

Decode = Callable[[bytes, str, str], Outcome]
"""Content, Content-Encoding and published digest of an image to its outcome. Travels to the processes."""

_READY = b"\1"
_LENGTH = struct.Struct("<Q")
_SENT = 2  # images that a process has at once, so that it need not wait for the next
_LIVES = 2
_STARTS = 3
_IMPORTED = (__name__, "data_prep.fetch.decode")  # by all of them together, before the first


def begin_imports() -> None:
    """Start the server that the processes come from: what it imports, torch above all, takes it a second or two."""
    worker_context(*_IMPORTED)
    forkserver.ensure_running()


@dataclass
class _Job:
    arguments: tuple[bytes, str, str]
    outcome: "asyncio.Future[Outcome]"
    deaths: int = 0


class Decoders:
    """`workers` processes that run `function`. An asynchronous context manager; leaving it ends the processes."""

    def __init__(self, function: Decode, workers: int) -> None:
        self._function = function
        self._workers = workers
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()

    async def __aenter__(self) -> "Decoders":
        self.tasks = [asyncio.create_task(self._serve()) for _ in range(self._workers)]
        """They end only by an error, such as processes that cannot start."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def decode(self, content: bytes, encoding: str, digest: str) -> Outcome:
        """What becomes of an image; DECODER_DIED where two processes in turn died over it."""
        job = _Job((content, encoding, digest), asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.outcome

    async def _serve(self) -> None:
        """Keep one process at work, and replace it when it dies."""
        failed = 0
        while failed < _STARTS:
            async with _process(self._function) as (process, connection):
                reader, writer = await asyncio.open_unix_connection(sock=connection)
                with contextlib.closing(writer):
                    failed += 1
                    if await reader.read(1) == _READY:
                        failed = 0
                        await self._feed(process, reader, writer)
        raise UserError(f"{failed} decoding processes in turn ended before they began, exit code {process.exitcode}")

    async def _feed(self, process: BaseProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand jobs to a process, two at a time, until it dies."""
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
            self._blame(sent, f"exit code {process.exitcode}")

    def _blame(self, sent: deque[_Job], detail: str) -> None:
        """The first image that a dead process had is the one that it died over; the others are as they were."""
        sent[0].deaths += 1
        if sent[0].deaths == _LIVES:
            _answer(sent.popleft(), Outcome(DECODER_DIED, detail))
        for job in sent:
            self._jobs.put_nowait(job)


@contextlib.asynccontextmanager
async def _process(function: Decode) -> AsyncIterator[tuple[BaseProcess, socket.socket]]:
    """A decoding process that ends with the context, and the socket to it."""
    here, there = socket.socketpair()
    with here:
        with there:
            process = worker_context(*_IMPORTED).Process(target=_work, args=(there, function), daemon=True)
            await _start(process)
        try:
            yield process, here
        finally:
            process.kill()
            process.join()


async def _start(process: BaseProcess) -> None:
    """Start a process while the loop goes on: the first one waits for what all of them import."""
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


def _work(connection: socket.socket, function: Decode) -> None:
    """A decoding process: answers images in their order until the other end is gone."""
    start_worker()
    with connection, connection.makefile("rb") as requests, contextlib.suppress(ConnectionError):
        connection.sendall(_READY)
        while header := requests.read(_LENGTH.size):
            (length,) = _LENGTH.unpack(header)
            connection.sendall(_frame(function(*pickle.loads(requests.read(length)))))
