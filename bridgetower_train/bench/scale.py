"""`bridgetower bench scale`: a corpus of 10^9 records opened and walked, by simulation: it has an index but no shards."""

import pickle
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bridgetower_train import random
from bridgetower_train.bench.kit import BenchConfig, Figures, bench, resident_mb, timed
from bridgetower_train.config import at_least
from bridgetower_train.data.dataset import RankPositions
from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.order import Order
from bridgetower_train.data.shards import INDEX_DTYPE, Corpus, open_corpus
from bridgetower_train.errors import ConfigError
from bridgetower_train.files import sha256_file

FIGURES = {
    "index_mb": "size of the index, 10^6 bytes",
    "hash_s": "seconds to hash it, at the rate of its first GB",
    "shards": "number of shards",
    "manifest_mb": "size of the manifest, 10^6 bytes",
    "open_s": "seconds to open the corpus",
    "open_mb": "memory that it takes, 10^6 bytes",
    "pickle_s": "seconds to pickle it for a worker that is not forked",
    "pickled_mb": "size of the pickle, 10^6 bytes",
    "order_s": "seconds to make the order",
    "table_s": "seconds to make the table of an epoch's shards",
    "table_mb": "memory that it takes, 10^6 bytes",
    "random_us": "microseconds to look up a random position",
    "next_us": "microseconds per sample of a rank's next steps",
    "first_shards": "shards that the first windows of a host's ranks need",
    "first_gb": "size of those shards, 10^9 bytes",
    "windows": "windows of a lane in an epoch",
    "fetched_of_due": "shards that a host fetches in an epoch / shards of its samples (target: 1)",
}
"""What `measure` returns."""

_STEPS = 1000
_HASHED = 1 << 30
_CARDS_PER_HOST = 8
_SHARD_BYTES = 45_000_000  # 1,000 images of 294 px

T = TypeVar("T")


@dataclass(frozen=True)
class BenchScaleConfig(BenchConfig):
    """What is simulated."""

    records: int = 1_000_000_000
    """Images, one caption each."""
    records_per_shard: int = 1000
    """Images of a shard."""
    world_size: int = 4096
    """Ranks, each with one lane and two samples of it per step."""
    shuffle_window: int = 4096
    """See data.shuffle_window."""
    walked: int = 1000
    """Random positions of the first two epochs that are looked up."""
    scratch: str | None = None
    """Folder for the index, a sparse file of 34 bytes a record, and the manifest; null: the system's."""

    def __post_init__(self) -> None:
        at_least("records_per_shard", self.records_per_shard, 1)
        at_least("world_size", self.world_size, _CARDS_PER_HOST)
        at_least("records", self.records, 2 * self.world_size)
        at_least("walked", self.walked, 1)


def measure(config: BenchScaleConfig) -> Figures:
    """FIGURES. ConfigError where `scratch` is not writable."""
    try:
        folder = tempfile.TemporaryDirectory(dir=config.scratch, prefix="scale-")
    except OSError as error:
        raise ConfigError(
            f"scratch={config.scratch}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    with folder as root:
        index, figures = _write(config, Path(root, "huge"))
        corpus, open_s, open_mb = _cost(lambda: open_corpus(root, "huge"))
        pickled, pickle_s, _ = _cost(lambda: pickle.dumps(corpus))
        order, order_s, _ = _cost(lambda: Order([corpus], [1.0], 0, config.world_size, 2, "all", config.shuffle_window))
        _, table_s, table_mb = _cost(lambda: order.shards_ahead((0, 0, 0)))
        return figures | {
            "open_s": open_s,
            "open_mb": open_mb,
            "pickle_s": pickle_s,
            "pickled_mb": len(pickled) / 1e6,
            "order_s": order_s,
            "table_s": table_s,
            "table_mb": table_mb,
            **_walk(config, order, corpus, index),
            **_fetch(config, order),
        }


def _cost(work: Callable[[], T]) -> tuple[T, float, float]:
    """(what `work` returns, seconds, growth of this process in 10^6 bytes)."""
    before, results = resident_mb(), list[T]()
    seconds = timed(lambda: results.append(work()))
    return results[0], seconds, resident_mb() - before


def _write(config: BenchScaleConfig, folder: Path) -> tuple[npt.NDArray[np.void], Figures]:
    """Write a sparse index and the manifest; the index, to be filled where it is walked."""
    folder.mkdir()
    shards = []
    for number, begin in enumerate(range(0, config.records, config.records_per_shard)):
        size = min(config.records_per_shard, config.records - begin)
        shards.append(ShardInfo(f"{number:07d}.tar", _SHARD_BYTES, size, size, "0" * 64))
    index: npt.NDArray[np.void] = np.lib.format.open_memmap(folder / "index.npy", "w+", INDEX_DTYPE, (config.records,))
    part = folder / "part"
    with part.open("wb") as file:
        file.truncate(min(_HASHED, index.nbytes))
    hash_s = timed(lambda: sha256_file(part)) * index.nbytes / part.stat().st_size
    manifest = Manifest("huge", 294, "json", shards, config.records, config.records, "").to_json()
    (folder / "manifest.json").write_text(manifest)
    return index, {
        "index_mb": index.nbytes / 1e6,
        "hash_s": hash_s,
        "shards": len(shards),
        "manifest_mb": len(manifest) / 1e6,
    }


def _walk(config: BenchScaleConfig, order: Order, corpus: Corpus, index: npt.NDArray[np.void]) -> Figures:
    """Look up random positions of two epochs, and a rank's next steps."""
    scattered = random.below(0, "bench.scale", 2 * order.epoch_samples, np.arange(config.walked)).tolist()
    batches = iter(RankPositions(config.world_size // 3, config.world_size, 2, 1, 0))
    steps = [next(batches) for _ in range(min(_STEPS, order.lane_samples // 2))]
    windows = {order.window_of(p) for p in [*scattered, steps[0][0], steps[-1][0]]}
    _fill(index, corpus, {shard for window in windows for _, shard in order.shards_ahead(window)})
    random_s = timed(lambda: [order.at(position) for position in scattered])
    next_s = timed(lambda: [order.take(positions) for positions in steps])
    return {"random_us": 1e6 * random_s / len(scattered), "next_us": 1e6 * next_s / (2 * len(steps))}


def _fill(index: npt.NDArray[np.void], corpus: Corpus, shards: Iterable[int]) -> None:
    """Give every record of `shards` one caption."""
    for shard in shards:
        low, high = corpus.shard_rows[shard : shard + 2]
        index["captions"][low:high] = 1


def _fetch(config: BenchScaleConfig, order: Order) -> Figures:
    """What the first windows of a host's ranks need, and all of them in an epoch."""
    first = {shard for lane in range(_CARDS_PER_HOST) for _, shard in order.shards_ahead((0, lane, 0))}
    windows = -(-order.lane_samples // order.window)
    spans = [(0, lane, window) for lane in range(_CARDS_PER_HOST) for window in range(max(1, windows - 1))]
    fetched = {shard for span in spans for _, shard in order.shards_ahead(span)}
    due = _CARDS_PER_HOST * order.lane_samples / config.records_per_shard
    return {
        "first_shards": len(first),
        "first_gb": len(first) * _SHARD_BYTES / 1e9,
        "windows": windows,
        "fetched_of_due": len(fetched) / due,
    }


run = bench("scale", measure, FIGURES)
