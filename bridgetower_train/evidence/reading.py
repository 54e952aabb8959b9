"""How fast this host reads and decodes images."""

import itertools
import time
from pathlib import Path

import numpy as np

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.dataset import open_data
from bridgetower_train.data.image import decode_square
from bridgetower_train.data.loader import make_loader
from bridgetower_train.data.shards import open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import make_device
from bridgetower_train.tasks import task_class
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_tokenizer

CORPUS = "synthetic"
_SECONDS = 2.0
_IMAGES = 64


def write_data(folder: Path, image_size: int, records: int) -> None:
    """The corpus CORPUS and its tokenizer, in `folder`: images that weigh and decode as photographs do."""
    synthetic_corpus(folder / CORPUS, image_size, min(records, _IMAGES), records)
    synthetic_tokenizer().save(str(folder / CORPUS / "tokenizer.json"))


def loader_rate(run: TrainConfig, pairs: int) -> float:
    """Samples per second that the loader of one rank, which has all of the batch, gives once its workers have started."""
    device, _ = make_device(run.device)
    text = CaptionTokenizer.load(run.tokenizer)
    dataset = open_data(run, text, task_class(run).reader(run, text))
    data = run.data
    loader = make_loader(
        dataset, 0, 1, pairs, run.global_batch // pairs, 0, data.workers, data.prefetch, device.mp_start_method, device.pin_memory
    )  # fmt: skip
    batches = iter(loader)
    for _ in range(max(1, data.workers) * (data.prefetch + 1)):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        next(batches)
        count += pairs
    return count / (time.perf_counter() - began)


def decoding_rate(run: TrainConfig) -> float:
    """Images per second that one core decodes to squares of the model's size."""
    images, size = _jpegs(run), run.model.image_size
    out = np.empty((size, size, 3), np.uint8)
    began = time.perf_counter()
    for count, image in enumerate(itertools.cycle(images), 1):
        decode_square(image, size, run.data.square, out)
        if (taken := time.perf_counter() - began) > _SECONDS / 2:
            return count / taken
    raise AssertionError("the corpus has images")


def card_decoding_rate(run: TrainConfig) -> tuple[float, float] | None:
    """`Device.decoding_rate` of the same images."""
    device, _ = make_device(run.device)
    return device.decoding_rate(_jpegs(run), run.model.image_size)


def _jpegs(run: TrainConfig) -> list[bytes]:
    corpus = open_corpus(run.data.root, CORPUS)
    return [bytes(corpus.read(row).image) for row in range(min(_IMAGES, corpus.manifest.images))]
