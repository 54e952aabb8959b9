"""Corpora and a tokenizer for a rehearsal without the real ones."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bridgetower_train.bench.data import synthetic_caption, synthetic_photo
from bridgetower_train.data.shards import INDEX_DTYPE, open_corpus
from bridgetower_train.planning.corpora import PUBLISHED, Published
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.repeated import repeat_shard
from data_prep.shards.writer import write_corpus

_IMAGES = 16  # distinct ones


OTHER = Published(100_000, 500_000)
"""Size of a corpus that nobody published."""


class Size(NamedTuple):
    """Size of a synthetic corpus."""

    images: int
    captions: int
    """Per image."""


def size_of(corpus: str) -> Size:
    """As many images as `corpus` has, each with its mean number of captions."""
    images, captions = PUBLISHED.get(corpus, OTHER)
    return Size(images, round(captions / images))


def index_bytes(corpora: Iterable[str]) -> int:
    """Bytes of the indexes of synthetic corpora on disk; the rest is small."""
    return sum(size_of(corpus).images for corpus in corpora) * INDEX_DTYPE.itemsize


def write_corpora(root: Path, corpora: Iterable[str], image_size: int) -> None:
    """Write synthetic `corpora` below `root`, with images of `image_size`."""
    sources: dict[int, Path] = {}
    for corpus in corpora:
        size = size_of(corpus)
        if size.captions not in sources:
            sources[size.captions] = _write_source(root, size.captions, image_size)
        source = sources[size.captions]
        repeat_shard(open_corpus(str(source.parent), source.name), root / corpus, size.images)


def write_tokenizer(path: Path) -> None:
    """Train a tokenizer on synthetic captions."""
    train_tokenizer(map(synthetic_caption, range(2000)), 1000).save(str(path))


def _write_source(root: Path, captions: int, image_size: int) -> Path:
    folder = root / f"source_{captions}"
    texts = ([f"{synthetic_caption(captions * n + i)} {i}" for i in range(captions)] for n in range(_IMAGES))
    write_corpus(
        folder, image_size, ((f"{n:08d}", synthetic_photo(n, image_size), own, {}) for n, own in enumerate(texts))
    )
    return folder
