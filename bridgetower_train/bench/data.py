"""`bridgetower bench data`: the loader against bare JPEG decoding and against other loaders, on the same images."""

import itertools
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from bridgetower_train.bench.kit import BenchConfig, Figures, bench, by_turns, cpu_seconds, resident_mb, timed
from bridgetower_train.bench.peers import PEERS, Source, open_peers
from bridgetower_train.config import DataConfig, ModelConfig, TrainConfig, at_least
from bridgetower_train.data.dataset import PairDataset, open_data
from bridgetower_train.data.loader import make_loader
from bridgetower_train.data.shards import Corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import ConfigError
from bridgetower_train.tasks import task_class
from bridgetower_train.weights import hub
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_tokenizer
from data_prep.shards.repeated import RECORDS_PER_SHARD, repeat_shard

FIGURES = {
    "jpeg_kb": "mean size of an image, 10^3 bytes",
    "bare": "records per CPU-second: libjpeg-turbo alone",
    "ours": "this loader",
    "webdataset_float32": "stock webdataset with Pillow, normalized to float32, as is usual",
    "webdataset_uint8": "the same, left at uint8 as this loader and all below do",
    "spdl": "SPDL's threads with FFmpeg",
    "litdata": "LitData",
    "mosaic_streaming": "MosaicML Streaming",
    "energon": "Megatron Energon",
    "hf_datasets": "Hugging Face datasets",
    "of_bare": "ours / bare (target: 0.9)",
    **{f"of_{name}": f"ours / {name}" for name in PEERS},
    "worker": "records per CPU-second of a loader worker, which hands batches over in shared memory",
    "worker_mb": "memory of a loader worker after all records, 10^6 bytes",
    "worker_growth_mb": "its growth since a tenth of the records (target: 0)",
    "open_s": "seconds from opening a corpus of huge_records records to its first batch (target: below 5)",
}
"""What `measure` returns, without the peers that are not installed. Rates and ratios are medians over the rounds."""


@dataclass(frozen=True)
class BenchDataConfig(BenchConfig):
    """What is timed."""

    corpus: str | None = None
    """Folder of a corpus, such as data/coco; null: a synthetic one, with images as heavy as photographs."""
    tokenizer: str | None = None
    """A `tokenizer.json`, its folder, or a name on the hub; null: a small one, trained on synthetic captions."""
    image_size: int = 294
    """Edge of the images that the model reads, pixels."""
    batch: int = 64
    """Pairs per batch."""
    records: int = 20_000
    """Records over which a worker's memory is watched."""
    rounds: int = 25
    """Turns of each reader, of 512 records or a batch."""
    huge_records: int = 14_000_000
    """Records of the corpus whose opening is timed; the published run had as many images."""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 4)
        at_least("records", self.records, 10 * self.batch)
        at_least("rounds", self.rounds, 1)


def measure(config: BenchDataConfig) -> Figures:
    """FIGURES. ConfigError where the corpus has fewer images than a batch."""
    torch.set_num_threads(1)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = Path(config.corpus or synthetic_corpus(scratch / "synthetic", config.image_size, 200, 2000))
        given = config.tokenizer
        text = CaptionTokenizer.load(hub.tokenizer(given)) if given else CaptionTokenizer(synthetic_tokenizer())
        dataset = _open(config, folder, text)
        if (images := dataset.corpora[0].manifest.images) < config.batch:
            raise ConfigError(f"batch={config.batch}: corpus={config.corpus} has only {images} images; lower it")
        return {
            **_rates(config, dataset, Source(dataset.corpora[0], text, config.image_size, config.batch, scratch)),
            **_worker(config, dataset),
            "open_s": _open_huge(config, dataset.corpora[0], text, scratch),
        }


def _open(config: BenchDataConfig, folder: Path, text: CaptionTokenizer) -> PairDataset:
    run = TrainConfig(
        steps="1",
        run_dir="",
        global_batch=config.batch,
        model=ModelConfig(image_size=config.image_size, patch_size=config.image_size),
        data=DataConfig(
            root=str(folder.parent), corpora={folder.name: 1.0}, lanes=max(1, math.gcd(config.batch, 16) // 2)
        ),
    )
    return open_data(run, text, task_class(run).reader(run, text))


def _rates(config: BenchDataConfig, dataset: PairDataset, source: Source) -> Figures:
    corpus = source.corpus
    rows = np.linspace(0, corpus.manifest.images, max(512, config.batch), endpoint=False).astype(int)
    jpegs = [bytes(corpus.read(row).image) for row in rows.tolist()]
    decoded, first = itertools.cycle(jpegs), itertools.count(step=config.batch)
    batches = len(jpegs) // config.batch

    def bare() -> None:
        for jpeg in itertools.islice(decoded, batches * config.batch):
            simplejpeg.decode_jpeg(jpeg)

    def ours() -> None:
        for start in itertools.islice(first, batches):
            dataset.__getitems__(range(start, start + config.batch))

    with ExitStack() as stack:
        turns = {name: partial(timed, reader, time.process_time) for name, reader in (("bare", bare), ("ours", ours))}
        turns |= {name: partial(take, batches) for name, take in open_peers(source, stack).items()}
        taken = by_turns(turns, config.rounds)
    figures = {name: statistics.median(batches * config.batch / s for s in seconds) for name, seconds in taken.items()}
    ratios = {
        f"of_{name}": statistics.median(theirs / ours for theirs, ours in zip(seconds, taken["ours"], strict=True))
        for name, seconds in taken.items()
        if name != "ours"
    }
    return {"jpeg_kb": statistics.mean(map(len, jpegs)) / 1e3} | figures | ratios


def _worker(config: BenchDataConfig, dataset: PairDataset) -> Figures:
    batches = iter(make_loader(dataset, 0, 1, config.batch, 1, 0, 1, 2, "fork", False))
    count = config.records // config.batch
    _skip(batches, count // 10)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    start, began = resident_mb(worker.pid), cpu_seconds(worker.pid)
    _skip(batches, count - count // 10)
    end, took = resident_mb(worker.pid), cpu_seconds(worker.pid) - began
    return {
        "worker": (count - count // 10) * config.batch / took,
        "worker_mb": end,
        "worker_growth_mb": end - start,
    }


def _skip(batches: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def _open_huge(config: BenchDataConfig, corpus: Corpus, text: CaptionTokenizer, scratch: Path) -> float:
    """Seconds to open a corpus that repeats one shard, check its shards and read the first batch.

    Having just been written, its index is in the page cache as far as it fits.
    """
    folder = scratch / "huge"
    repeat_shard(corpus, folder, max(1, config.huge_records // RECORDS_PER_SHARD) * RECORDS_PER_SHARD)
    start = time.perf_counter()
    dataset = _open(config, folder, text)
    dataset.corpora[0].check_shards()
    next(iter(make_loader(dataset, 0, 1, config.batch, 1, 0, 0, 1, "fork", False)))
    return time.perf_counter() - start


run = bench("data", measure, FIGURES)
