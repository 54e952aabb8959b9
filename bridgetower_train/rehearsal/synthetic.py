"""Corpora for a rehearsal without the real ones."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bridgetower_train.data.shards import INDEX_DTYPE, open_corpus
from bridgetower_train.planning.corpora import PUBLISHED
from data_prep.shapes.synthetic import synthetic_corpus
from data_prep.shards.repeated import repeat_shard

_IMAGES = 16  # distinct ones

OTHER = (100_000, 500_000)
"""Images and captions of a corpus without published counts."""


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
            folder = root / f"source_{size.captions}"
            sources[size.captions] = synthetic_corpus(folder, image_size, _IMAGES, _IMAGES, size.captions)
        source = sources[size.captions]
        repeat_shard(open_corpus(str(source.parent), source.name), root / corpus, size.images)
