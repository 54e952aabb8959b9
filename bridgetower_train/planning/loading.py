"""What the loader needs of a host's cores, by what a core of this machine does."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import cycle, islice
from statistics import median

import numpy as np

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.dataset import SPARE
from bridgetower_train.data.image import decode_square
from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import BadRecordError, Corpus, open_corpus
from bridgetower_train.errors import UserError
from data_prep.shapes.synthetic import synthetic_photo

_RECORDS, _LONGEST = 64, 1.0  # how many are read, and CPU-seconds after which no more are
_PHOTOS = 4
_DECODING = 0.67
"""Reading and decoding, of a loader worker's time; the rest are texts, masks, shared memory (benchmarks/2026-11-29-loader.md)."""


def core_rate(config: TrainConfig) -> tuple[float, str]:
    """(samples per second that a loader worker gives on a core of this machine, whose they are).

    Reading and decoding are measured, by CPU time, their median; what else a worker does is taken to be in proportion. They are
    of the first corpus of a local `data.root` that can be read, or else drawn. Nothing remote is contacted.
    """
    size, square = config.model.image_size, config.data.square
    pixels = np.empty((1 + SPARE, size, size, 3), np.uint8)
    for whose, reads in _sources(config):
        seconds: list[float] = []
        for read in islice(reads, _RECORDS):
            began = time.process_time()
            with suppress(BadRecordError):
                decode_square(read(), size, square, pixels[0], pixels[1:])
                seconds.append(time.process_time() - began)
            if sum(seconds) > _LONGEST:
                break
        if seconds:
            return _DECODING / median(seconds), whose
    raise AssertionError("drawn photographs can be decoded")


def _sources(config: TrainConfig) -> Iterator[tuple[str, Iterator[Callable[[], bytes | memoryview]]]]:
    data = config.data
    for name in [] if is_remote(data.root) else data.corpora:
        with suppress(UserError):
            yield f"of {name}", _rows(open_corpus(data.root, name, follow_links=data.follow_links))
    photos = [synthetic_photo(number, config.model.image_size) for number in range(_PHOTOS)]
    yield "drawn", (partial(bytes, photo) for photo in cycle(photos))


def _rows(corpus: Corpus) -> Iterator[Callable[[], memoryview]]:
    """Readers of records from all over a corpus."""
    rows = np.linspace(0, corpus.manifest.images, _RECORDS, endpoint=False).astype(int)
    return (partial(_image, corpus, row) for row in rows.tolist())


def _image(corpus: Corpus, row: int) -> memoryview:
    return corpus.read(row).image
