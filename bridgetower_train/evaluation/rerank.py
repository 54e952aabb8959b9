"""Matching scores of many pairs, from tower states that are computed once for many of them and never kept for all.

The states of an image at 384 px (base, bf16) take 5.3 MB, those of 5,000 images 27 GB: too much to keep. So images are
encoded once, block by block, and a block stays in memory while all texts that it is paired with stream past in blocks. A
text is encoded once per block of images: with 64 of them, 5,000 x 25,000 at k = 256 spend about 4% of the work on that, and
the rest on the pairs themselves, which is unavoidable.

Shapes: C pairs, P pairs at once.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.distributed import ALONE, Ranks
from bridgetower_train.evaluation.ranking import Floats, Ints, chunks
from bridgetower_train.tasks.pretraining.predictor import Predictor

TEXTS_PER_IMAGE = 4
"""A block has this many times more texts than images: their states are that much smaller."""


class ImagesAndTexts(Protocol):
    """What pairs are of: an `EvalSet`, or images and texts of a user."""

    @property
    def texts(self) -> list[str]:
        """All texts."""

    def __len__(self) -> int:
        """The number of images."""

    def read(self, part: slice) -> tuple[Tensor, dict[int, str]]:
        """(uint8 (B, 3, S, S) of the images in `part`, image -> why it could not be decoded)."""


def score_pairs(predictor: Predictor, images: ImagesAndTexts, pairs_C: Ints, ranks: Ranks, batch: int = 64) -> Floats:
    """float32 (C,): the logit of a match, by which published figures rank, of each pair; see `pair_logits`."""
    return pair_logits(predictor, images, pairs_C, ranks, batch, "re-ranking")[:, 1]


def pair_logits(
    predictor: Predictor,
    images: ImagesAndTexts,
    pairs_C: Ints,
    ranks: Ranks = ALONE,
    batch: int = 64,
    title: str | None = None,
) -> Floats:
    """float32 (C, 2): the logits of a mismatch and of a match of each pair, image * T + text, ascending; the same on all ranks.

    `batch`: images whose states are in memory at once, and pairs that are fused at once. Ranks share the blocks of images.
    `title`: of the progress that rank 0 shows; None: none.
    """
    texts = images.texts
    logits_C2 = np.zeros((len(pairs_C), 2), np.float32)
    for part in chunks(len(images), ranks, batch, title):
        first, last = np.searchsorted(pairs_C, [part.start * len(texts), part.stop * len(texts)])
        image, text = np.divmod(pairs_C[first:last], len(texts))
        if not len(image):
            continue
        image_states = predictor.image_states(images.read(part)[0])
        for block in _blocks(text, TEXTS_PER_IMAGE * batch):
            used, row = np.unique(text[block], return_inverse=True)
            text_states = predictor.text_states([texts[i] for i in used])
            for start in range(0, len(block), batch):
                at = slice(start, start + batch)
                rows = torch.from_numpy(image[block[at]] - part.start), torch.from_numpy(row[at])
                logits_C2[first + block[at]] = predictor.match_states(image_states, text_states, *rows).numpy()
    return ranks.add_up(logits_C2)


def _blocks(text: Ints, size: int) -> Iterator[Ints]:
    """Indices of pairs, grouped by blocks of `size` texts, in the order of the pairs."""
    number = text // size
    order = np.argsort(number, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
