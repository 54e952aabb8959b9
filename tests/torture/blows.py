"""What is done to a run, and when."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.serving import Folder, of_folder, serving
from tests.torture.starts import Start, fork, kill

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Disk:
    """A small file system in memory that can be filled, at `folder`; without the right to mount, an ordinary folder."""

    def __init__(self, folder: Path, megabytes: int = 48) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.small = not os.system(f"mount -t tmpfs -o size={megabytes}m tmpfs '{folder}' 2>/dev/null")
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no room on it."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def make_room(self) -> None:
        """Undo `fill`."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        if self.small:
            os.system(f"umount '{self.folder}'")


class WebStore:
    """A folder on a web server, in a process of its own, that can be told to fail for a while."""

    def __init__(self, url: str, fails_until: Path) -> None:
        self.url, self._fails_until = url, fails_until

    def fail(self, seconds: float) -> None:
        """Answer every request with 503 for `seconds`."""
        self._fails_until.write_text(str(time.time() + seconds))


@contextmanager
def web_store(root: Path, work: Path) -> Iterator[WebStore]:
    """A web server of the corpora in `root`; `work`: where its files are."""
    fails_until, address = work / "fails_until", work / "address"

    class Failing(Folder):
        def send_head(self):
            with suppress(OSError, ValueError):
                if time.time() < float(fails_until.read_text()):
                    self.send_error(503)
                    return None
            return super().send_head()

    def serve() -> int:
        with serving(of_folder(root, Failing)) as found:
            address.with_suffix(".tmp").write_text(f"http://{found}")
            address.with_suffix(".tmp").rename(address)
            while os.getppid() == parent:
                time.sleep(0.2)
        return 0

    parent = os.getpid()
    process = fork(serve, work / "store.log")
    while not address.exists():
        time.sleep(0.01)
    try:
        yield WebStore(address.read_text(), fails_until)
    finally:
        kill([process])


@dataclass(frozen=True)
class Blow:
    """One way to end a run that goes on."""

    name: str
    strike: Callable[[Start, random.Random, Disk | None], bool]
    """Does it; whether it could be done."""
    stops: bool = False
    """The run may save and exit with 0."""
    explains: bool = False
    """The run must say in one line what was wrong."""
    seconds: float = 40.0
    """Within which all of its processes must have ended."""


def _one(processes: list[int], dice: random.Random, signum: int = signal.SIGKILL) -> bool:
    """Send a signal to one of them, if there is one."""
    if processes:
        kill([dice.choice(processes)], signum)
    return bool(processes)


def _all(start: Start, dice: random.Random, disk: Disk | None) -> bool:
    family = start.family()
    dice.shuffle(family)
    kill(family)
    return bool(family)


def _signal(start: Start, dice: random.Random, disk: Disk | None) -> bool:
    """To one rank, all ranks, the launcher or everything, once, or in quick succession."""
    which = dice.choice((start.trainers, start.launcher, start.family, lambda: start.trainers()[-1:]))()
    for _ in range(dice.choice((1, 1, 2, 4))):
        kill(which, dice.choice(SIGNALS))
        time.sleep(dice.choice((0.0, 0.0, 0.05, 0.3)))
    return bool(which)


def _fill(start: Start, dice: random.Random, disk: Disk | None) -> bool:
    if disk is None or not disk.small:
        return False
    disk.fill()
    return True


BLOWS = (
    Blow("kill -9 of one rank", lambda start, dice, disk: _one(start.trainers(), dice)),
    Blow("kill -9 of all processes", _all),
    Blow("kill -9 of the launcher", lambda start, dice, disk: _one(start.launcher(), dice)),
    Blow("kill -9 of a loader worker", lambda start, dice, disk: _one(start.workers(), dice), explains=True),
    Blow("signals", _signal, stops=True),
    Blow("full disk", _fill, explains=True),
)


def pause(start: Start, dice: random.Random) -> None:
    """Stop one process of it for a moment, which it must survive."""
    victim = dice.choice(start.family() or [start.pid])
    kill([victim], signal.SIGSTOP)
    time.sleep(dice.uniform(0.05, 0.6))
    kill([victim], signal.SIGCONT)
