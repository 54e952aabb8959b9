"""`bridgetower bench search`: how long an exact search among many embeddings takes, without the model."""

import resource
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bridgetower_train.bench.kit import BenchConfig, Figures, bench, in_turns, resident_mb, timed
from bridgetower_train.config import at_least, one_of
from bridgetower_train.use.index import DTYPES
from bridgetower_train.use.search import nearest

FIGURES = {
    "ms": "milliseconds of a search, median (target at 100,000 x 512 in float32: below 50 on two cores)",
    "most_ms": "the longest",
    "cpu_ms": "processor time of one, over all threads, median",
    "threads": "threads that compute the products",
    "index_mb": "memory of the embeddings, 10^6 bytes",
    "search_mb": "growth of the process's peak memory beside them, 10^6 bytes",
}
"""What `measure` returns."""


@dataclass(frozen=True)
class BenchSearchConfig(BenchConfig):
    """What is searched."""

    count: int = 100_000
    """Embeddings."""
    width: int = 512
    """Of an embedding."""
    dtype: str = "float32"
    """As `dtype` of `bridgetower embed`."""
    top: int = 20
    """Results of a search."""
    rounds: int = 50
    """Searches, one query each."""
    threads: int = 2
    """Threads that compute the products."""

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, DTYPES)
        for key in ("count", "width", "top", "rounds", "threads"):
            at_least(key, getattr(self, key), 1)


def measure(config: BenchSearchConfig) -> Figures:
    """FIGURES."""
    torch.set_num_threads(config.threads)
    random = torch.Generator().manual_seed(0)
    made = F.normalize(torch.randn(config.count, config.width, generator=random), dim=-1)
    embeddings = made.numpy().astype(config.dtype)
    queries = iter(F.normalize(torch.randn(config.rounds + 1, 1, config.width, generator=random), dim=-1))
    del made
    before = _peak_mb()
    spent = list[float]()

    def search() -> None:
        spent.append(timed(lambda: nearest(next(queries), embeddings, config.top), time.process_time))

    times = in_turns({"search": search}, config.rounds)["search"]
    return {
        "ms": 1e3 * statistics.median(times),
        "most_ms": 1e3 * max(times),
        "cpu_ms": 1e3 * statistics.median(spent),
        "threads": torch.get_num_threads(),
        "index_mb": embeddings.nbytes / 1e6,
        "search_mb": max(0.0, max(_peak_mb(), resident_mb()) - before),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


run = bench("search", measure, FIGURES)
