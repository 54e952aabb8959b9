"""Corpora and a tokenizer for a rehearsal where the real ones are not at hand."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bridgetower_train.bench.data import synthetic_caption, synthetic_photo
from bridgetower_train.data.shards import INDEX_DTYPE, open_corpus
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.repeated import repeat_shard
from data_prep.shards.writer import ShardWriter

_IMAGES = 16  # different ones


class Size(NamedTuple):
    """How large a corpus is."""

    images: int
    captions: int
    """Of each image."""


PUBLISHED = {
    "coco": Size(113_287, 5),
    "vg": Size(108_000, 50),
    "sbu": Size(860_000, 1),
    "cc3m": Size(3_000_000, 1),
    "cc12m": Size(10_000_000, 1),
}
"""The corpora of the published run, rounded."""
OTHER = Size(100_000, 5)
"""Of a corpus that is not among them."""


def size_of(corpus: str) -> Size:
    """How large `corpus` is synthetic."""
    return PUBLISHED.get(corpus, OTHER)


def index_bytes(corpora: Iterable[str]) -> int:
    """What the indexes of synthetic corpora take on the disk; the rest is little."""
    return sum(size_of(corpus).images for corpus in corpora) * INDEX_DTYPE.itemsize


def write_corpora(root: Path, corpora: Iterable[str], image_size: int) -> None:
    """Make up `corpora` below `root`, with images of `image_size`."""
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
    name = f"source_{captions}"
    with ShardWriter(root, name, image_size) as writer:
        for number in range(_IMAGES):
            texts = [f"{synthetic_caption(captions * number + i)} {i}" for i in range(captions)]
            writer.add(f"{number:08d}", synthetic_photo(number, image_size), texts, {})
    return root / name
