"""Work in processes of its own, which may hang or crash: each has a time limit and a log, and is gone when it ends."""

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bridgetower_train.errors import UserError

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = ["bridgetower_train.training.run", "bridgetower_train.bench.memory", "torch._dynamo"]
"""What takes seconds to import and touches no device."""

_GRACE = 5.0
"""Seconds."""


class StepError(Exception):
    """Some work failed: why, in a line."""


class Children:
    """One process for each rank, all of which do the same work."""

    def __init__(self, work: Callable[..., Any], *args: Any, log: Path, ranks: int = 1) -> None:
        """Start `work(*args)`, which stands at the top of a module, in `ranks` processes; what they print is in `log`."""
        _CONTEXT.set_forkserver_preload(_PRELOADED)
        self.log = log
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        together = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        together["MASTER_PORT"] = _free_port()
        log.write_bytes(b"")
        for rank in range(ranks):
            pipe, end = _CONTEXT.Pipe(duplex=False)
            place = {**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            process = _CONTEXT.Process(target=_child, args=(end, str(log), place, work, args))
            process.start()
            end.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, raised: type[BaseException] | None, *rest: object) -> None:
        """Let those that have given their results end by themselves."""
        for process in self._processes if raised is None else ():
            process.join(_GRACE)
        self.kill()

    def ended(self) -> bool:
        """Whether one of them has ended, or given its result."""
        return any(pipe.poll() for pipe in self._pipes)

    def results(self, limit: float) -> list[Any]:
        """What the work returned on each rank; StepError if one failed, ended without a result, or took over `limit` seconds."""
        deadline = time.monotonic() + limit
        results: dict[int, Any] = {}
        while len(results) < len(self._pipes):
            left = [pipe for rank, pipe in enumerate(self._pipes) if rank not in results]
            ready = wait(left, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise StepError(f"no answer in {limit:g} s{self._last_line()}")
            for pipe in ready:
                rank = self._pipes.index(pipe)  # type: ignore[arg-type]
                results[rank] = self._result(rank)
        return [results[rank] for rank in range(len(self._pipes))]

    def _result(self, rank: int) -> Any:
        try:
            good, value = self._pipes[rank].recv()
        except (EOFError, OSError):
            process = self._processes[rank]
            process.join(10)
            raise StepError(f"its process ended by itself with {_how(process.exitcode)}{self._last_line()}") from None
        if not good:
            raise StepError(value)
        return value

    def kill(self) -> None:
        """Kill what is left of them and of what they have started."""
        for process in self._processes:
            assert process.pid, "it was started"
            with suppress(ProcessLookupError, PermissionError):  # it may not lead a group yet, or have left none
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join(10)

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"; its last line: {lines[-1][:200]}" if lines else ""


def ask(work: Callable[..., Any], *args: Any, limit: float, log: Path) -> Any:
    """What `work(*args)` returns in one process; see Children."""
    with Children(work, *args, log=log) as child:
        return child.results(limit)[0]


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def _how(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _child(
    pipe: Connection, log: str, place: Mapping[str, str], work: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(place)
    try:
        pipe.send((True, work(*args)))
    except BaseException as error:
        traceback.print_exc()
        first = str(error).strip().partition("\n")[0]
        told = first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
        pipe.send((False, told))
    pipe.close()
