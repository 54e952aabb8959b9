"""Work in several processes, its results in order."""

import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkServerContext
from typing import TypeVar

from bridgetower_train.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

_CHUNKS_PER_WORKER = 4


def cores() -> int:
    """Number of CPU cores, for the default of `workers`."""
    return os.cpu_count() or 1


def mp_start_method(*modules: str) -> ForkServerContext:
    """Where processes that prepare images come from: they begin with `modules` imported, if they are the first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "torch", *modules])
    return context


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that prepare images: one thread each, deaf to signals meant for the job, gone when the job is killed."""
    return ProcessPoolExecutor(workers, mp_start_method("data_prep.source.image"), start_worker)


def start_worker() -> None:
    """What such a process does first."""
    import torch  # slow to import, and of no use to the process that hands the work out

    from bridgetower_train.data import worker

    worker.start_worker(0)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int, chunk: int = 32) -> Iterator[R]:
    """`function` of each item, in the order of the items, computed in `workers` processes (1: in this one).

    `chunk` items travel together; at most four times as many per worker are under way or waiting to be taken, so memory
    stays bounded however slowly they are.
    An exception in `function` is raised here; a worker that is killed is a UserError.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    iterator = iter(items)
    pending: deque[Future[list[R]]] = deque()
    with process_pool(workers) as pool:
        try:
            while True:
                while len(pending) < workers * _CHUNKS_PER_WORKER and (part := list(itertools.islice(iterator, chunk))):
                    pending.append(pool.submit(_apply, function, part))
                if not pending:
                    return
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; take fewer `workers`, and give the same command again"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _apply(function: Callable[[T], R], chunk: list[T]) -> list[R]:
    return [function(item) for item in chunk]


def _end_with_parent() -> None:
    """A pool's worker waits for its next task for ever, even when nobody is left to give it one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
