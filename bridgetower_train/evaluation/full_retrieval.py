"""Retrieval as it is published: all images and captions of a split, or folds of it, by the contrast and re-ranked.

Shapes: I images, T texts, E width of the embeddings, C pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import DataError
from bridgetower_train.evaluation.captioned import CaptionedImages
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.evaluation.ranking import Ints, candidates, chunks, itc_ranks, itm_ranks, recalls
from bridgetower_train.evaluation.rerank import score_pairs

Figures = dict[str, float]


@dataclass(frozen=True)
class _Test:
    """Images that are ranked among each other: all, or a fold."""

    owner: Ints
    """(T,): the image of each text, in the numbers of this test."""
    by_itc: tuple[Ints, Ints]
    """(I,) and (T,): ranks by the contrast."""
    pairs: Ints
    """(C,): the candidates."""
    whole: Ints
    """(C,): the same, in the numbers of all images and texts."""


def evaluate(
    predictor: Predictor, images: CaptionedImages, rerank: int, fold: int | None, ranks: Ranks, batch: int = 64
) -> dict[str, Figures]:
    """Method -> its figures (see `recalls`), among all images and, with `fold`, as the mean over whole folds.

    `rerank`: how many candidates of each query are ranked anew by matching; 0: none. Images that cannot be decoded are
    taken out of `images`. DataError where fewer than two are left.
    """
    images_IE = _embed_images(predictor, images, ranks, batch)
    if len(images) < 2:
        left_out = "; ".join(f"{key}: {reason}" for key, reason in list(images.left_out.items())[:3])
        raise DataError(f"{images.corpus.name}: has fewer than two usable images; left out: {left_out or 'none'}")
    texts_TE = _embed_texts(predictor, images.texts, ranks, batch)
    groups = {"": [slice(0, len(images))]}
    if fold and fold < len(images):
        starts = range(0, len(images) - fold + 1, fold)
        groups[f", mean of {len(starts)} folds of {fold:,}"] = [slice(start, start + fold) for start in starts]
    tests = {
        name: [_test(images_IE, texts_TE, images.owner, part, rerank, ranks) for part in parts]
        for name, parts in groups.items()
    }
    figures = {f"ITC{name}": _mean([recalls(*test.by_itc) for test in group]) for name, group in tests.items()}
    if rerank:
        every_C = np.unique(np.concatenate([test.whole for group in tests.values() for test in group]))
        score_C = score_pairs(predictor, images, every_C, ranks, batch)
        for name, group in tests.items():
            scores = [score_C[np.searchsorted(every_C, test.whole)] for test in group]
            ranked = [itm_ranks(t.pairs, s, t.owner, t.by_itc) for t, s in zip(group, scores, strict=True)]
            figures[f"ITC, best {rerank} re-ranked by ITM{name}"] = _mean([recalls(*ranks) for ranks in ranked])
    return figures


def _test(images_IE: Tensor, texts_TE: Tensor, owner_T: Ints, part: slice, rerank: int, ranks: Ranks) -> _Test:
    first, last = np.searchsorted(owner_T, [part.start, part.stop]).tolist()
    images, texts, owner = images_IE[part], texts_TE[first:last], owner_T[first:last] - part.start
    pairs = candidates(images, texts, rerank, ranks) if rerank else np.empty(0, np.int64)
    image, text = np.divmod(pairs, max(1, len(owner)))
    return _Test(
        owner, itc_ranks(images, texts, owner, ranks), pairs, (part.start + image) * len(owner_T) + first + text
    )


def _mean(folds: Sequence[Figures]) -> Figures:
    return {name: float(np.mean([figures[name] for figures in folds])) for name in folds[0]}


def _embed_images(predictor: Predictor, images: CaptionedImages, ranks: Ranks, batch: int) -> Tensor:
    """(I, E); those that cannot be decoded leave `images`."""
    parts: dict[int, Tensor] = {}
    bad: dict[int, str] = {}
    for part in chunks(len(images), ranks, batch, "images"):
        pixels, unreadable = images.read(range(part.start, part.stop))
        parts[part.start] = predictor.embed_images(pixels)
        bad |= unreadable
    gathered: dict[int, str] = {}
    for share in ranks.gather_objects(bad):
        gathered |= share
    embeddings = _join(parts, len(images), ranks)
    kept = [image for image in range(len(images)) if image not in gathered]
    images.leave_out(gathered)
    return embeddings[kept]


def _embed_texts(predictor: Predictor, texts: list[str], ranks: Ranks, batch: int) -> Tensor:
    """(T, E)."""
    parts = {p.start: predictor.embed_texts(texts[p]) for p in chunks(len(texts), ranks, 4 * batch, "captions")}
    return _join(parts, len(texts), ranks)


def _join(parts: dict[int, Tensor], count: int, ranks: Ranks) -> Tensor:
    """The rows that all ranks have computed, on all of them."""
    width = max(ranks.gather_objects(max((part.shape[1] for part in parts.values()), default=0)))
    whole = np.zeros((count, width), np.float32)
    for start, part in parts.items():
        whole[start : start + len(part)] = part.numpy()
    return torch.from_numpy(ranks.add_up(whole))
