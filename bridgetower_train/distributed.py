"""The process group, and small agreements between ranks apart from gradients."""

import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from bridgetower_train.config import DistributedConfig
from bridgetower_train.display import print_line
from bridgetower_train.errors import UserError, remedy
from bridgetower_train.launched import check_ranks, several_ranks
from bridgetower_train.lock import Lock, hold
from bridgetower_train.rendezvous import meet, on_one_host, stay_on_this_host

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all ranks."""

    rank: int
    world_size: int
    control: dist.ProcessGroup | None
    """A gloo group for host-side agreements; None for one process."""

    @property
    def is_main(self) -> bool:
        """True for the one rank that prints and writes."""
        return self.rank == 0

    def share(self, count: int) -> Iterator[int]:
        """This rank's share of the numbers below `count`."""
        yield from range(self.rank, count, self.world_size)

    def gather_objects(self, value: Any) -> list[Any]:
        """`value` of every rank, in rank order."""
        if self.control is None:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value, group=self.control)
        return gathered

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work`, which only rank 0 does, returns there. A UserError or OSError that it raises is raised on every rank."""
        outcome: tuple[T | None, UserError | OSError | None] = None, None
        if self.is_main:
            try:
                outcome = work(), None
            except (UserError, OSError) as error:
                outcome = None, error
        found, failure = self.gather_objects(outcome)[0]
        if failure is not None:
            raise failure
        return found  # type: ignore[no-any-return]

    def bytes_on_main(self, read: Callable[[], bytes]) -> bytes:
        """What `read`, which only rank 0 does, returns there, as `on_main`, which would need room for one per rank."""
        found = b""

        def length() -> int:
            nonlocal found
            found = read()
            return len(found)

        buffer = torch.empty(self.on_main(length), dtype=torch.uint8)
        if self.is_main:
            buffer.numpy()[:] = np.frombuffer(found, np.uint8)
        self.broadcast([buffer])
        return buffer.numpy().tobytes()

    def total(self, value: int) -> int:
        """The sum of `value` over all ranks."""
        return int(self.add_up(np.array(value)))

    def add_up(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum of `array` over all ranks, element by element, on all of them."""
        if self.control is None:
            return array
        tensor = torch.from_numpy(array.copy())
        dist.all_reduce(tensor, group=self.control)
        return tensor.numpy()

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite each of these host tensors, in order, with rank 0's."""
        for tensor in tensors if self.control is not None else ():
            dist.broadcast(tensor.detach(), src=0, group=self.control)

    def collectives(self) -> int:
        """How many this rank has begun, as far as their backend counts them: HCCL does not. Any thread may ask."""
        count = 0
        for group in filter(None, (dist.group.WORLD, self.control)):
            with suppress(RuntimeError):
                count += group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        return count

    def barrier(self) -> None:
        """Wait for all ranks, on the host."""
        if self.control is not None:
            dist.barrier(group=self.control)


ALONE = Ranks(0, 1, None)
"""A single process."""


class Interrupted(Exception):  # noqa: N818  no error
    """One of the ranks was asked to end what all of them do."""


@dataclass(frozen=True)
class Interruptible(Ranks):
    """Ranks whose work any of them may end for all, by Interrupted, at its next number of a share or when results are gathered.

    Whoever shares the work must meet the others in `gather_objects` and `add_up` alone.
    """

    asked: Callable[[], bool]
    """Whether this rank is to end it."""

    def share(self, count: int) -> Iterator[int]:
        """See Ranks."""
        for number in super().share(count):
            if self.asked():
                self.gather_objects(None)
            yield number

    def gather_objects(self, value: Any) -> list[Any]:
        """See Ranks."""
        gathered = super().gather_objects((self.asked(), value))
        if any(asked for asked, _ in gathered):
            raise Interrupted
        return [found for _, found in gathered]

    def add_up(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See Ranks."""
        self.gather_objects(None)
        return super().add_up(array)


class Flag:
    """A flag that any rank may raise and all see at the same step.

    Each `agree` starts a reduction on the host and returns the result of the previous one, which had a whole step to finish.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def agree(self, raised: bool) -> bool:
        """True if any rank raised it at the previous call (one process: at this call)."""
        if self.ranks.control is None:
            return raised
        outcome = False
        if self._pending is not None:
            work, tensor = self._pending
            work.wait()
            outcome = bool(tensor)
        tensor = torch.tensor([int(raised)])
        self._pending = (dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.ranks.control, async_op=True), tensor)
        return outcome


def local_rank() -> int:
    """Index of this process on its host, by its launcher's variable; 0 for one process."""
    return int(os.environ.get("LOCAL_RANK", "0")) if several_ranks() else 0


def allow_connections() -> None:
    """Raise the soft limit of open files to the hard one: gloo has a connection to every rank, and 1,024 is a common limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def init_ranks(backend: str, config: DistributedConfig, patience: float = 0.0) -> Ranks:
    """Join the process group of the launcher's variables; a single process needs none.

    `patience`: seconds for which ranks wait in a collective for one that waits for data, where that is more than the timeout.
    """
    if not several_ranks():
        return ALONE
    check_ranks()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    allow_connections()
    if on_one_host():
        stay_on_this_host()
    store = meet(rank, world_size, timedelta(seconds=config.timeout))
    # Longer than the watchdog waits, which tells who is late; collectives of cards may end those that are not.
    longest = timedelta(seconds=1.2 * max(config.timeout, patience))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=longest)
    return Ranks(rank, world_size, dist.new_group(backend="gloo", timeout=longest))


@contextmanager
def run_dir_lock(run_dir: Path, ranks: Ranks) -> Iterator[Lock | None]:
    """Rank 0 locks the run folder while the block runs. If another run has it, or it cannot be created, all ranks exit with 1.

    The lock is None on the other ranks. Rank 0 prints the reason before any rank exits: a launcher ends the others as soon as one
    does.
    """
    with ExitStack() as stack:
        refused, lock = False, None
        if ranks.is_main:
            try:
                lock = stack.enter_context(hold(run_dir, "run_dir"))
            except (UserError, OSError) as error:
                todo = f"run_dir={run_dir}: {error}; {remedy(error)}" if isinstance(error, OSError) else error
                print_line(f"error: {todo}", sys.stderr)
                refused = True
        if ranks.gather_objects(refused)[0]:
            raise SystemExit(1)
        yield lock


def shut_down() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
