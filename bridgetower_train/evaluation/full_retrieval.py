"""Retrieval as it is published: all pictures and captions of a split, or folds of it, by the contrast and re-ranked.

Shapes: I images, T texts, E width of the embeddings, C pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import DataError
from bridgetower_train.evaluation.captioned import CaptionedPictures
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.evaluation.ranking import Ints, candidates, chunks, itc_ranks, itm_ranks, recalls
from bridgetower_train.evaluation.rerank import score_pairs

Figures = dict[str, float]


@dataclass(frozen=True)
class _Test:
    """Pictures that are ranked among each other: all, or a fold."""

    owner: Ints
    """(T,): the picture of each text, in the numbers of this test."""
    by_itc: tuple[Ints, Ints]
    """(I,) and (T,): ranks by the contrast."""
    pairs: Ints
    """(C,): the candidates."""
    whole: Ints
    """(C,): the same, in the numbers of all pictures and texts."""


def evaluate(
    predictor: Predictor, pictures: CaptionedPictures, rerank: int, fold: int | None, ranks: Ranks, batch: int = 64
) -> dict[str, Figures]:
    """Method -> its figures (see `recalls`), among all pictures and, with `fold`, as the mean over whole folds.

    `rerank`: how many candidates of each query are ranked anew by matching; 0: none. Pictures that cannot be decoded are
    taken out of `pictures`. DataError where fewer than two are left.
    """
    images_IE = _embed_pictures(predictor, pictures, ranks, batch)
    if len(pictures) < 2:
        left_out = "; ".join(f"{key}: {reason}" for key, reason in list(pictures.left_out.items())[:3])
        raise DataError(f"{pictures.corpus.name}: has fewer than two usable pictures; left out: {left_out or 'none'}")
    texts_TE = _embed_texts(predictor, pictures.texts, ranks, batch)
    groups = {"": [slice(0, len(pictures))]}
    if fold and fold < len(pictures):
        starts = range(0, len(pictures) - fold + 1, fold)
        groups[f", mean of {len(starts)} folds of {fold:,}"] = [slice(start, start + fold) for start in starts]
    tests = {
        name: [_test(images_IE, texts_TE, pictures.owner, part, rerank, ranks) for part in parts]
        for name, parts in groups.items()
    }
    figures = {f"ITC{name}": _mean([recalls(*test.by_itc) for test in group]) for name, group in tests.items()}
    if rerank:
        every_C = np.unique(np.concatenate([test.whole for group in tests.values() for test in group]))
        score_C = score_pairs(predictor, pictures, every_C, ranks, batch)
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


def _embed_pictures(predictor: Predictor, pictures: CaptionedPictures, ranks: Ranks, batch: int) -> Tensor:
    """(I, E); those that cannot be decoded leave `pictures`."""
    parts: dict[int, Tensor] = {}
    bad: dict[int, str] = {}
    for part in chunks(len(pictures), ranks, batch, "pictures"):
        pixels, unreadable = pictures.read(range(part.start, part.stop))
        parts[part.start] = predictor.embed_images(pixels)
        bad |= unreadable
    gathered: dict[int, str] = {}
    for share in ranks.gather_objects(bad):
        gathered |= share
    embeddings = _join(parts, len(pictures), ranks)
    kept = [picture for picture in range(len(pictures)) if picture not in gathered]
    pictures.leave_out(gathered)
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
