"""Starts of a run, forked from this process, which has imported everything: each takes less than a second.

Several ranks are children of torchrun's agent, as those that users start; a few starts are plain commands. This process adopts
whatever outlives its parent, so that nothing of a run goes unseen.
"""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bridgetower_train.cli import entry, main
from tests.training.runs import ROOT, train_command

_SET_SUBREAPER = 36  # of prctl(2)


def prepare(first_run: list[str]) -> None:
    """Import all that a run needs, by a short one of one rank in this process, and adopt orphans from now on."""
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", PYTHONPATH=str(ROOT))
    torch.set_num_threads(1)
    _prctl(_SET_SUBREAPER, 1)
    with suppress(ImportError):
        import deepspeed.runtime.zero.partition_parameters  # noqa: F401
    if main(["train", *first_run]):
        raise SystemExit("a run of one step fails: nothing can be tested")


def fork(work: Callable[[], int], log: Path | None = None) -> int:
    """The id of a new process, in a session of its own, that does `work`, prints to `log` and exits with what it returns."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) if log else 1
        for stream in (1, 2):
            os.dup2(output, stream)
        code = work()
        atexit._run_exitfuncs()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


class Forked:
    """A rank of torchrun's agent, which takes it for a command that it has started (`subprocess.Popen`)."""

    def __init__(
        self, args: object, env: dict[str, str], stdout: object, stderr: object, start_new_session: bool
    ) -> None:
        self.returncode: int | None = None
        self.pid = fork(lambda: self._be_rank(env))

    @staticmethod
    def _be_rank(env: dict[str, str]) -> int:
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(signum, signal.SIG_DFL)  # a command has no handlers of the agent's
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        return entry()

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, as soon as it has ended; TimeoutExpired after `timeout` seconds."""
        limit = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired("bridgetower", timeout or 0.0)
            time.sleep(0.01)
        return code


@dataclass
class Start:
    """A run that goes on, from its start to the end of its last process."""

    pid: int
    """Of the launcher, or of the only rank."""
    ranks: int
    log: Path
    began: float
    beside: frozenset[int]
    """Processes that are not the run's."""
    code: int | None = None

    @classmethod
    def of(cls, arguments: list[str], ranks: int, log: Path, forked: bool = True, user: int | None = None) -> "Start":
        """`bridgetower train` on so many ranks, `forked` or by the command that users type, as another `user` if one is given."""
        log.unlink(missing_ok=True)

        def work() -> int:
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            if not forked:
                os.execv(sys.executable, [*train_command(ranks), *arguments])
            sys.argv = ["bridgetower", "train", *arguments]
            if ranks == 1:
                return entry()
            logs = DefaultLogsSpecs(log_dir=str(log.with_suffix(".elastic")))
            subprocess_handler.Popen = Forked  # type: ignore[assignment, misc]
            config = LaunchConfig(
                min_nodes=1, max_nodes=1, nproc_per_node=ranks, logs_specs=logs, run_id=os.urandom(4).hex(),
                rdzv_endpoint="127.0.0.1:0", rdzv_backend="c10d", max_restarts=0,
            )  # fmt: skip
            elastic_launch(config, "bridgetower")()
            return 0

        beside = frozenset(_below(os.getpid()))
        return cls(fork(work, log), ranks, log, time.monotonic(), beside)

    def family(self) -> list[int]:
        """The processes of the run that live, in no order."""
        self._reap()
        return [process for process in _below(os.getpid()) if process not in self.beside]

    def launcher(self) -> list[int]:
        """The process that starts the ranks, if there is one."""
        return [process for process in self.family() if process == self.pid] if self.ranks > 1 else []

    def trainers(self) -> list[int]:
        """The processes of the ranks, as far as they have started."""
        return _children(self.pid) if self.ranks > 1 else [self.pid]

    def workers(self) -> list[int]:
        """The loader workers of all ranks, and what else these have started."""
        return [worker for rank in self.trainers() for worker in _children(rank)]

    @property
    def ended(self) -> bool:
        """Whether its first process has ended; `code` is its exit code then."""
        self._reap()
        return self.code is not None

    def wait(self, happened: Callable[[], bool], seconds: float) -> bool:
        """Whether something `happened` within `seconds`, and before its end."""
        limit = time.monotonic() + seconds
        while not self.ended and time.monotonic() < limit:
            if happened():
                return True
            time.sleep(0.004)
        return False

    def rest(self, seconds: float) -> None:
        """Wait for its end, no longer than `seconds`."""
        self.wait(lambda: False, seconds)

    def wait_for_all(self, seconds: float) -> float | None:
        """The seconds until no process of it is left; None after `seconds`, when all are killed."""
        began = time.monotonic()
        while left := self.family():
            if time.monotonic() > began + seconds:
                kill(left)
                return None
            time.sleep(0.02)
        return time.monotonic() - began

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:  # orphans too
                if reaped[0] == self.pid:
                    self.code = os.waitstatus_to_exitcode(reaped[1])


def kill(processes: list[int], signum: int = signal.SIGKILL) -> None:
    """Send all of them a signal."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signum)


def _children(process: int) -> list[int]:
    """Those of its children that live."""
    found = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            found += Path(f"/proc/{process}/task/{task}/children").read_text().split()
    return [int(child) for child in found if _lives(int(child))]


def _below(process: int) -> list[int]:
    """Its children that live, and theirs."""
    return [each for child in _children(process) for each in (child, *_below(child))]


def _lives(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2][:1] != b"Z"
    return False


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
