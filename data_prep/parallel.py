"""Work in several processes, its results in order."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_CHUNKS_PER_WORKER = 4


def cores() -> int:
    """Number of CPU cores, for the default of `workers`."""
    return os.cpu_count() or 1


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int, chunk: int = 32) -> Iterator[R]:
    """`function` of each item, in the order of the items, computed in `workers` processes (1: in this one).

    `chunk` items travel together; at most four times as many per worker are under way or waiting to be taken, so memory
    stays bounded however slowly they are.
    An exception in `function` is raised here; a worker that dies raises BrokenProcessPool.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    iterator = iter(items)
    pending: deque[Future[list[R]]] = deque()
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        try:
            while True:
                while len(pending) < workers * _CHUNKS_PER_WORKER and (part := list(itertools.islice(iterator, chunk))):
                    pending.append(pool.submit(_apply, function, part))
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _apply(function: Callable[[T], R], chunk: list[T]) -> list[R]:
    return [function(item) for item in chunk]
