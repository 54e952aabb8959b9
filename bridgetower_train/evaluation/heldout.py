"""Held-out images with their captions, as tensors."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.data.image import decode_crop
from bridgetower_train.data.shards import BadRecordError, Corpus
from bridgetower_train.errors import DataError


@dataclass(frozen=True)
class HeldOut:
    """B images, S pixels on an edge, and the captions of each."""

    pixels: Tensor
    """uint8 (B, 3, S, S)."""
    captions: list[list[str]]
    """Every image's captions, in the source's order."""
    keys: list[str]
    """Every image's key in its shard."""
    left_out: tuple[str, ...] = ()
    """What could not be read: `key (reason)`."""

    def __len__(self) -> int:
        return len(self.captions)

    def batches(self, size: int) -> Iterator[slice]:
        """Slices of at most `size` images."""
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))


def load_held_out(corpus: Corpus, samples: int, image_size: int) -> HeldOut:
    """At most `samples` records of `corpus`, evenly spread and in its order; unreadable ones are left out.

    DataError where fewer than two can be read.
    """
    rows = np.linspace(0, len(corpus.index), min(samples, len(corpus.index)), endpoint=False).astype(int)
    images, captions, keys, left_out = [], [], [], []
    for row in rows.tolist():
        image = np.empty((image_size, image_size, 3), dtype=np.uint8)
        try:
            record = corpus.read(row)
            decode_crop(record.image, image_size, image)
            if not record.captions:
                raise BadRecordError("no caption")
        except BadRecordError as error:
            left_out.append(f"{corpus.key(row)} ({error.reason})")
            continue
        images.append(torch.from_numpy(image))
        captions.append(record.captions)
        keys.append(record.key)
    if len(images) < 2:
        named = ", ".join(left_out[:3]) or "none"
        raise DataError(f"{corpus.name}: has fewer than two usable images to evaluate on; left out: {named}")
    return HeldOut(torch.stack(images).permute(0, 3, 1, 2), captions, keys, tuple(left_out))
