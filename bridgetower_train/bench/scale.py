"""`bridgetower bench scale`: a corpus of 10^9 records opened and walked, by simulation: its shards are not there."""

import pickle
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bridgetower_train import random
from bridgetower_train.config import at_least
from bridgetower_train.data.dataset import RankSamples
from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.order import Order
from bridgetower_train.data.shards import INDEX_DTYPE, Corpus, open_corpus
from bridgetower_train.errors import ConfigError
from bridgetower_train.files import sha256_file

_STEPS = 1000
_HASHED = 1 << 30
_CARDS_PER_HOST = 8
_SHARD_BYTES = 45_000_000  # 1,000 images of 294 px


@dataclass(frozen=True)
class BenchScaleConfig:
    """What is simulated."""

    records: int = 1_000_000_000
    """Images, one caption each."""
    records_per_shard: int = 1000
    """Images of a shard."""
    world_size: int = 4096
    """Ranks, each with one lane and two samples of it a step."""
    shuffle_window: int = 4096
    """See data.shuffle_window."""
    walked: int = 1000
    """Random positions of the first two epochs that are looked up."""
    scratch: str | None = None
    """Folder for the index, a file with holes of 34 bytes a record, and the manifest; null: the system's."""

    def __post_init__(self) -> None:
        at_least("records_per_shard", self.records_per_shard, 1)
        at_least("world_size", self.world_size, _CARDS_PER_HOST)
        at_least("records", self.records, 2 * self.world_size)
        at_least("walked", self.walked, 1)


def run(config: BenchScaleConfig) -> None:
    """Measure and print."""
    for name, figure in bench_scale(config).items():
        print(f"{name:56}{figure:,.3f}".rstrip("0").rstrip("."))


def bench_scale(config: BenchScaleConfig) -> dict[str, float]:
    """All figures by name, each with its unit. MB are 10^6 bytes that this process holds more than before."""
    figures: dict[str, float] = {}
    try:
        folder = tempfile.TemporaryDirectory(dir=config.scratch, prefix="scale-")
    except OSError as error:
        raise ConfigError(f"scratch={config.scratch}: nothing can be written there ({error.strerror})") from None
    with folder as root:
        index = _write(config, Path(root, "huge"), figures)
        with _measured("open the corpus", figures):
            corpus = open_corpus(root, "huge")
        with _measured("pickle it for a worker that is not forked", figures):
            figures["pickled, MB"] = len(pickle.dumps(corpus)) / 1e6
        with _measured("make the order", figures):
            order = Order([corpus], [1.0], 0, config.world_size, 2, "all", config.shuffle_window)
        with _measured("table of an epoch's shards", figures):
            order.shards_ahead((0, 0, 0))
        _walk(config, order, corpus, index, figures)
        _fetch(config, order, figures)
    return figures


def _write(config: BenchScaleConfig, folder: Path, figures: dict[str, float]) -> npt.NDArray[np.void]:
    """An index of holes, and the manifest; the index, to be filled where it is walked."""
    folder.mkdir()
    shards = []
    for number, begin in enumerate(range(0, config.records, config.records_per_shard)):
        size = min(config.records_per_shard, config.records - begin)
        shards.append(ShardInfo(f"{number:07d}.tar", _SHARD_BYTES, size, size, "0" * 64))
    index: npt.NDArray[np.void] = np.lib.format.open_memmap(folder / "index.npy", "w+", INDEX_DTYPE, (config.records,))
    part = folder / "part"
    with part.open("wb") as file:
        file.truncate(min(_HASHED, index.nbytes))
    began = time.perf_counter()
    sha256_file(part)
    rate = part.stat().st_size / (time.perf_counter() - began)
    manifest = Manifest("huge", 294, "json", shards, config.records, config.records, "")
    (folder / "manifest.json").write_text(manifest.to_json())
    figures["index, MB on a disk"] = index.nbytes / 1e6
    figures["to hash it at this machine's rate, s"] = index.nbytes / rate
    figures["shards"] = len(shards)
    figures["manifest, MB"] = (folder / "manifest.json").stat().st_size / 1e6
    return index


def _walk(
    config: BenchScaleConfig, order: Order, corpus: Corpus, index: npt.NDArray[np.void], figures: dict[str, float]
) -> None:
    """Look up random positions of two epochs, and a rank's next steps."""
    scattered = random.below(0, "bench.scale", 2 * order.epoch_samples, np.arange(config.walked))
    rank = config.world_size // 3
    batches = iter(RankSamples(rank, config.world_size, 2, 1, 0))
    steps = [next(batches) for _ in range(min(_STEPS, order.lane_samples // 2))]
    windows = {order.window_of(p) for p in [*scattered.tolist(), steps[0][0], steps[-1][0]]}
    _fill(index, corpus, {shard for window in windows for _, shard in order.shards_ahead(window)})
    with _measured("random positions, each of them", figures, config.walked):
        for position in scattered.tolist():
            order.at(position)
    with _measured("a rank's next steps, each sample", figures, 2 * len(steps)):
        for positions in steps:
            order.take(positions)


def _fill(index: npt.NDArray[np.void], corpus: Corpus, shards: Iterable[int]) -> None:
    """One caption for every record of `shards`."""
    for shard in shards:
        low, high = corpus.shard_rows[shard : shard + 2]
        index["captions"][low:high] = 1


def _fetch(config: BenchScaleConfig, order: Order, figures: dict[str, float]) -> None:
    """What the first windows of a host's ranks need, and all of them in an epoch."""
    host = {shard for lane in range(_CARDS_PER_HOST) for _, shard in order.shards_ahead((0, lane, 0))}
    figures["shards that a host holds at first"] = len(host)
    figures["those shards, GB"] = len(host) * _SHARD_BYTES / 1e9
    windows = -(-order.lane_samples // order.window)
    figures["windows of a lane in an epoch"] = windows
    spans = [(0, lane, window) for lane in range(_CARDS_PER_HOST) for window in range(max(1, windows - 1))]
    fetched = {shard for span in spans for _, shard in order.shards_ahead(span)}
    due = _CARDS_PER_HOST * order.lane_samples / config.records_per_shard
    figures["shards that a host fetches in an epoch, of those due"] = len(fetched) / due


@contextmanager
def _measured(name: str, figures: dict[str, float], times: int = 1) -> Iterator[None]:
    before, began = _resident(), time.perf_counter()
    yield
    seconds = (time.perf_counter() - began) / times
    unit, factor = ("us", 1e6) if times > 1 else ("s", 1)
    figures[f"{name}, {unit}"] = seconds * factor
    figures[f"{name}, MB"] = (_resident() - before) / 1e6


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
