"""Size of the training data: from manifests where the corpora exist, otherwise from published counts."""

from dataclasses import dataclass

from bridgetower_train.config import DataConfig
from bridgetower_train.data.manifest import Manifest
from bridgetower_train.data.roots import plain_root, read_small
from bridgetower_train.errors import DataError

RECORD_BYTES = 57e3
"""A record of an image of 294 px in a shard: 55 kB measured on 200 COCO photographs at quality 95, and 2 kB of tar."""
RECORD_EDGE = 294


PUBLISHED = {
    "coco": (113_287, 567_000),
    "vg": (104_000, 5_400_000),
    "sbu": (860_000, 860_000),
    "cc3m": (2_900_000, 2_900_000),
    "cc12m": (10_970_000, 10_970_000),
    "vqav2_train": (82_783, 435_174),
}
"""Corpus -> images and captions or questions, as docs/data.md expects. The fetched ones are as of 2021; fewer are left today."""


@dataclass(frozen=True)
class Corpora:
    """All corpora of a run."""

    images: float
    samples: float
    """Of an epoch, by `data.captions` and the weights of the corpora."""
    bytes: float
    """Of the shards."""
    published: list[str]
    """Corpora without a manifest, for which published counts are used."""
    unknown: list[str]
    """Corpora of unknown size, which are left out."""

    @property
    def record_bytes(self) -> float:
        """Bytes that the loader reads per sample."""
        return self.bytes / self.images if self.images else RECORD_BYTES


def count(data: DataConfig, image_size: int) -> Corpora:
    """Size of the corpora in `data`; DataError if a manifest cannot be used."""
    total = samples = size = 0.0
    published, unknown = [], []
    for name, weight in data.corpora.items():
        manifest = _manifest(data.root, name)
        if manifest is not None:
            images, captions, stored = manifest.images, manifest.captions, sum(s.bytes for s in manifest.shards)
        elif name in PUBLISHED:
            published.append(name)
            images, captions = PUBLISHED[name]
            stored = round(images * RECORD_BYTES * (image_size / RECORD_EDGE) ** 2)
        else:
            unknown.append(name)
            continue
        total, size = total + images, size + stored
        samples += weight * (captions if data.per_epoch == "all" else images)
    return Corpora(total, samples, size, published, unknown)


def _manifest(root: str, name: str) -> Manifest | None:
    """The manifest of a corpus; None where it cannot be read."""
    file = f"{name}/manifest.json"
    try:
        content = read_small(root, file)
    except (DataError, OSError):
        return None
    return Manifest.from_json(content, f"{plain_root(root)}/{file}")
