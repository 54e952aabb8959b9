"""How much there is to show: from manifests where the corpora are at hand, else from published counts."""

from dataclasses import dataclass
from pathlib import Path

from bridgetower_train.config import DataConfig
from bridgetower_train.data.manifest import Manifest

RECORD_BYTES = 57e3
"""An image of 294 px with its captions in a shard: 55 kB measured on 200 COCO photographs at quality 95, and 2 kB of tar."""
RECORD_EDGE = 294

PUBLISHED = {
    "coco": (113_287, 567_000),
    "vg": (104_000, 5_400_000),
    "sbu": (860_000, 860_000),
    "cc3m": (2_900_000, 2_900_000),
    "cc12m": (10_970_000, 10_970_000),
}
"""Corpus -> images and captions, as in docs/data.md (of 2021 where they lie on the web; less is left of them)."""


@dataclass(frozen=True)
class Corpora:
    """All that an epoch shows."""

    images: float
    samples: float
    """Of an epoch, by `data.captions` and the weights of the corpora."""
    bytes: float
    """Of the shards."""
    published: list[str]
    """Corpora that are not at hand, whose counts are the published ones."""
    unknown: list[str]
    """Corpora of which nothing is known, and which are left out."""

    @property
    def record_bytes(self) -> float:
        """Bytes that a sample makes the loader read."""
        return self.bytes / self.images if self.images else RECORD_BYTES


def count(data: DataConfig, image_size: int) -> Corpora:
    """What `data` would show; DataError where a manifest cannot be used."""
    total = samples = size = 0.0
    published, unknown = [], []
    for name, weight in data.corpora.items():
        path = Path(data.root) / name / "manifest.json"
        if path.is_file():
            manifest = Manifest.from_json(path.read_text(), str(path))
            images, captions, stored = manifest.images, manifest.captions, sum(s.bytes for s in manifest.shards)
        elif name in PUBLISHED:
            published.append(name)
            images, captions = PUBLISHED[name]
            stored = round(images * RECORD_BYTES * (image_size / RECORD_EDGE) ** 2)
        else:
            unknown.append(name)
            continue
        total, size = total + images, size + stored
        samples += weight * (captions if data.captions == "all" else images)
    return Corpora(total, samples, size, published, unknown)
