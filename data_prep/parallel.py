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
    """Number of CPU cores, the default of `workers`."""
    return os.cpu_count() or 1


def worker_context(*preload: str) -> ForkServerContext:
    """How workers are started: by a server that has imported torch and `preload`, where it does not run yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "torch", *preload])
    return context


def start_worker() -> None:
    """Initialize a worker: one thread, no reaction to signals meant for the job, and an end when the job is killed."""
    import torch  # slow to import, and the process that hands out the work does not need it

    from bridgetower_train.data import worker

    worker.start_worker(0)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int, chunk: int = 32) -> Iterator[R]:
    """`function` of each item, in the order of the items, computed in `workers` processes (1: in this one).

    `chunk` items travel together; at most four chunks per worker are in progress or wait to be taken, so memory stays
    bounded however slowly they are taken. An exception in `function` is raised here; a worker that is killed is a UserError.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    iterator = iter(items)
    pending: deque[Future[list[R]]] = deque()
    module = getattr(function, "func", function).__module__  # of the function, or of that in a partial
    with ProcessPoolExecutor(workers, worker_context(module), start_worker) as pool:
        try:
            while True:
                while len(pending) < workers * _CHUNKS_PER_WORKER and (part := list(itertools.islice(iterator, chunk))):
                    pending.append(pool.submit(_apply, function, part))
                if not pending:
                    return
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; take fewer `workers` and run the same command again"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def map_ahead(function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """`function` of each item, in their order; those of `ahead` items are computed ahead, each in a thread.

    The threads do not keep the process alive, however long they take. An exception in `function` is raised here.
    """
    pending: deque[Future[R]] = deque()
    for item in items:
        future: Future[R] = Future()
        if ahead:
            threading.Thread(target=_fulfil, args=(future, function, item), daemon=True).start()
        else:
            _fulfil(future, function, item)
        pending.append(future)
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _fulfil(future: "Future[R]", function: Callable[[T], R], item: T) -> None:
    try:
        future.set_result(function(item))
    except BaseException as error:  # raised where the result is taken
        future.set_exception(error)


def _apply(function: Callable[[T], R], chunk: list[T]) -> list[R]:
    return [function(item) for item in chunk]


def _end_with_parent() -> None:
    """A pool's worker waits for its next task forever, even when no process is left to send one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
