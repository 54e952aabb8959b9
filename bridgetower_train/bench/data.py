"""`bridgetower bench data`: the loader against bare JPEG decoding and against stock webdataset, on the same shards."""

import io
import itertools
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
import webdataset
from PIL import Image
from torch import Tensor

from bridgetower_train.config import DataConfig, ModelConfig, ObjectiveConfig, TrainConfig, at_least
from bridgetower_train.data.dataset import PairDataset, make_loader, open_data
from bridgetower_train.data.shards import Corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.model.vision import CLIP_MEAN, CLIP_STD
from bridgetower_train.tasks import task_class
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.repeated import RECORDS_PER_SHARD, repeat_shard
from data_prep.shards.writer import write_corpus

BARE_TARGET, WEBDATASET_TARGET, OPEN_TARGET = 0.85, 2.0, 5.0
"""What is aimed at: share of the bare decoding rate; multiple of webdataset's rate; seconds."""

HUGE_RECORDS = 14_000_000
"""Records of the synthetic index that is opened: as many as the published run had images."""

_NOUNS = ("dog", "cat", "man", "woman", "child", "train", "bench", "street", "beach", "kitchen", "horse", "umbrella")
_WORDS = ("a", "the", "small", "large", "red", "old", "young", "sitting", "riding", "on", "near", "behind", "with")


@dataclass(frozen=True)
class BenchDataConfig:
    """What is timed."""

    corpus: str | None = None
    """Folder of a corpus, such as data/coco; null makes one up, of images as heavy as photographs."""
    tokenizer: str | None = None
    """A `tokenizer.json` or its folder; null trains a small one."""
    image_size: int = 294
    """Edge of the images that the model reads, pixels."""
    batch: int = 64
    """Pairs per batch."""
    records: int = 20_000
    """Records over which a worker's memory is watched."""
    rounds: int = 25
    """Turns of each contender, of 512 records or a batch; medians are reported."""
    huge_records: int = HUGE_RECORDS
    """Records of the index whose opening is timed."""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 4)
        at_least("records", self.records, 10 * self.batch)
        at_least("rounds", self.rounds, 1)


def run(config: BenchDataConfig) -> int:
    """Measure and print."""
    figures = bench_data(config)
    print(f"records per second of one core, median of {config.rounds} turns; batches of {config.batch}")
    print(f"  bare libjpeg-turbo   {figures['bare']:7.0f}   {figures['jpeg_kb']:.0f} kB an image")
    print(f"  this loader          {figures['ours']:7.0f}")
    print(f"  webdataset, Pillow   {figures['webdataset']:7.0f}   normalised float32")
    print(f"                       {figures['webdataset_uint8']:7.0f}   uint8")
    print(f"share of bare decoding      {figures['of_bare']:.3f}   target {BARE_TARGET}")
    print(f"times webdataset            {figures['of_webdataset']:.2f}    target {WEBDATASET_TARGET}")
    print(f"times webdataset, uint8     {figures['of_webdataset_uint8']:.2f}")
    growth = figures["worker_mb_end"] - figures["worker_mb_start"]
    print(f"memory of a worker          {figures['worker_mb_end']:.0f} MB, {growth:+.1f} over {config.records} records")
    print(f"first batch of {config.huge_records} records {figures['open_s']:.2f} s   target below {OPEN_TARGET:g}")
    return 0


def bench_data(config: BenchDataConfig) -> dict[str, float]:
    """All figures: rates in records per CPU-second, their ratios, memory in 10^6 bytes, seconds."""
    torch.set_num_threads(1)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = Path(config.corpus) if config.corpus else make_corpus(scratch, config.image_size)
        text = CaptionTokenizer.load(config.tokenizer) if config.tokenizer else _small_text()
        dataset = _open(config, folder, text)
        return {
            **_rates(config, dataset, text),
            **_worker_memory(config, dataset),
            "open_s": _open_huge(config, dataset.corpora[0], text, scratch),
        }


def _small_text() -> CaptionTokenizer:
    return CaptionTokenizer(train_tokenizer(map(synthetic_caption, range(2000)), 1000))


def _open(config: BenchDataConfig, folder: Path, text: CaptionTokenizer) -> PairDataset:
    run = _train_config(config, folder)
    return open_data(run, text, task_class(run).reader(run, text))


def _train_config(config: BenchDataConfig, folder: Path) -> TrainConfig:
    return TrainConfig(
        run_dir="",
        global_batch=config.batch,
        model=ModelConfig(image_size=config.image_size, patch_size=config.image_size),
        data=DataConfig(root=str(folder.parent), corpora={folder.name: 1.0}, lanes=math.gcd(config.batch, 16)),
        objective=ObjectiveConfig(itm=0),  # else a lane would have to give two samples to a batch
    )


def _rates(config: BenchDataConfig, dataset: PairDataset, text: CaptionTokenizer) -> dict[str, float]:
    """The three contenders in turns, so that a change in the machine's pace meets all of them."""
    corpus = dataset.corpora[0]
    rows = np.linspace(0, corpus.manifest.images, max(512, config.batch), endpoint=False).astype(int)
    jpegs = [bytes(corpus.read(row).image) for row in rows.tolist()]
    decoded = itertools.cycle(jpegs)
    positions = itertools.count(step=config.batch)
    stock = _stock_webdataset(corpus, text, config.image_size, config.batch, normalise=True)
    stock_uint8 = _stock_webdataset(corpus, text, config.image_size, config.batch, normalise=False)

    def bare() -> None:
        for jpeg in itertools.islice(decoded, config.batch):
            simplejpeg.decode_jpeg(jpeg)

    def ours() -> None:
        first = next(positions)
        dataset.__getitems__(range(first, first + config.batch))

    turns: dict[str, Callable[[], Any]] = {
        "bare": bare,
        "ours": ours,
        "webdataset": lambda: next(stock),
        "webdataset_uint8": lambda: next(stock_uint8),
    }
    rates: dict[str, list[float]] = {name: [] for name in turns}
    batches = len(jpegs) // config.batch
    for _ in range(config.rounds + 1):
        for name, batch in turns.items():
            start = time.process_time()
            for _ in range(batches):
                batch()
            rates[name].append(batches * config.batch / (time.process_time() - start))
    figures = {"jpeg_kb": statistics.mean(map(len, jpegs)) / 1e3}
    for name, values in rates.items():
        figures[name] = statistics.median(values[1:])  # the first turn warms up
        if name != "ours":
            figures[f"of_{name}"] = statistics.median(a / b for a, b in zip(rates["ours"][1:], values[1:], strict=True))
    return figures


def _stock_webdataset(corpus: Corpus, text: CaptionTokenizer, size: int, batch: int, normalise: bool) -> Iterator[Any]:
    """Batches as one gets them from webdataset and Pillow: shuffled, decoded, resized, cropped, tokenized.

    The usual transform ends with normalised float32; without `normalise` it stays at uint8, as this loader does.
    """
    mean, deviation = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)

    def crop(image: Image.Image) -> Tensor:
        scale = size / min(image.size)
        if scale != 1:
            width, height = (max(size, int(edge * scale)) for edge in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((edge - size) // 2 for edge in image.size)
        pixels = torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).permute(2, 0, 1)
        return (pixels.contiguous().float() / 255 - mean) / deviation if normalise else pixels

    def tokens(meta: dict[str, Any]) -> Tensor:
        return text.encode(meta["captions"][:1], ModelConfig.max_text_len)[0][0]

    shards = [f"{corpus.folder}/{shard.name}" for shard in corpus.manifest.shards]
    pipeline = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pil")
    return iter(pipeline.to_tuple("jpg", "json").map_tuple(crop, tokens).repeat().batched(batch))


def _worker_memory(config: BenchDataConfig, dataset: PairDataset) -> dict[str, float]:
    """Resident memory of a loader worker after a tenth of the records and at the end."""
    batches = iter(make_loader(dataset, 0, 1, config.batch, 1, 0, 1, 2, "fork", False))
    count = config.records // config.batch
    for _ in itertools.islice(batches, count // 10):
        pass
    (worker,) = multiprocessing.active_children()
    start = _resident_mb(worker.pid)
    for _ in itertools.islice(batches, count - count // 10):
        pass
    return {"worker_mb_start": start, "worker_mb_end": _resident_mb(worker.pid)}


def _resident_mb(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _open_huge(config: BenchDataConfig, corpus: Corpus, text: CaptionTokenizer, scratch: Path) -> float:
    """Seconds from nothing to the first batch, shards checked, of a corpus that repeats one shard over and over.

    The index is in memory already, as far as it fits.
    """
    folder = scratch / "huge"
    repeat_shard(corpus, folder, max(1, config.huge_records // RECORDS_PER_SHARD) * RECORDS_PER_SHARD)
    start = time.perf_counter()
    dataset = _open(config, folder, text)
    dataset.corpora[0].check_shards()
    next(iter(make_loader(dataset, 0, 1, config.batch, 1, 0, 0, 1, "fork", False)))
    return time.perf_counter() - start


def make_corpus(root: Path, size: int, images: int = 200, records: int = 2000) -> Path:
    """Write `records` records of `images` different images, shorter edge `size`; the folder."""
    jpegs = [synthetic_photo(number, size) for number in range(images)]
    captions = ([synthetic_caption(5 * number + i) for i in range(5)] for number in range(records))
    write_corpus(
        root / "synthetic",
        size,
        (
            (f"{n:08d}", jpegs[n % images], texts, {"url": f"https://example.com/{n}.jpg"})
            for n, texts in enumerate(captions)
        ),
    )
    return root / "synthetic"


def synthetic_photo(number: int, size: int) -> bytes:
    """A JPEG of 4:3 made of noise of many scales: it decodes as a photograph does, and at 294 pixels weighs 38 to 55 kB."""
    dice = np.random.default_rng(number)
    width, height = (size * 4 // 3, size) if number % 4 else (size, size * 4 // 3)
    fall = dice.uniform(0.5, 0.75)  # of the amplitude from one octave to the next, as a power of 2
    octaves = [2.0 ** (-fall * octave) * _noise(dice, 2**octave, width, height) for octave in range(2, 9)]
    pixels = np.sum(octaves, axis=0)
    pixels = 120 + 55 * (pixels - pixels.mean()) / pixels.std()
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


def _noise(dice: np.random.Generator, cells: int, width: int, height: int) -> npt.NDArray[np.float32]:
    """float32 (height, width, 3): smooth noise of `cells` cells across, most of it common to the three colours."""
    grid = dice.normal(size=(cells + 2, cells + 2, 1)) * 1.5 + dice.normal(size=(cells + 2, cells + 2, 3)) * 0.5
    bands = [Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(grid, -1, 0)]
    return np.stack([np.asarray(band.resize((width, height), Image.Resampling.BICUBIC)) for band in bands], axis=-1)


def synthetic_caption(number: int) -> str:
    """Words in a row, as long as a caption of COCO."""
    dice = np.random.default_rng(number)
    return " ".join(dice.choice(_NOUNS if i % 3 == 2 else _WORDS) for i in range(dice.integers(8, 14)))
