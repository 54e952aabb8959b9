"""At which rank does a query find what belongs to it? By the contrast, and by matching among its best candidates.

Shapes: I images, T texts, E width of the embeddings, C scored pairs. `owner_T` says to which image a text belongs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from bridgetower_train.distributed import Ranks

CHUNK = 256
"""Rows of the similarity matrix that are in memory at once. Ranks share whole chunks, so that each is the same product whichever
computes it."""

TIE = 1e-6
"""Cosines closer than this are equal: they differ by less than float32 products do."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def chunks(count: int, ranks: Ranks, size: int = CHUNK, title: str | None = None) -> Iterator[slice]:
    """This rank's share of the slices of `size` among `count` rows; with a `title`, rank 0 shows its progress."""
    whole = -(-count // size)
    total = len(range(ranks.rank, whole, ranks.world_size))
    shown = tqdm(ranks.share(whole), title, total, disable=None if title and ranks.is_main else True)
    return (slice(number * size, min((number + 1) * size, count)) for number in shown)


def itc_ranks(images_IE: Tensor, texts_TE: Tensor, owner_T: Ints, ranks: Ranks) -> tuple[Ints, Ints]:
    """(rank (I,) of the best own text of each image, rank (T,) of the own image of each text), from 1, by cosine.

    A tie counts against: whatever scores as high ranks before. Own texts never rank before each other. One product of
    the two matrices, in chunks.
    """
    own_T = torch.from_numpy(owner_T)
    truth_T = (images_IE[own_T] * texts_TE).sum(-1)
    best_I = torch.full((len(images_IE),), -torch.inf).scatter_reduce_(0, own_T, truth_T, "amax")
    before_I, before_T = np.zeros(len(images_IE), np.int64), np.zeros(len(texts_TE), np.int64)
    for part in chunks(len(images_IE), ranks):
        similarity = images_IE[part] @ texts_TE.T
        mine = np.flatnonzero((owner_T >= part.start) & (owner_T < part.stop))
        similarity[owner_T[mine] - part.start, mine] = -torch.inf
        before_I[part] = np.count_nonzero((similarity >= best_I[part, None] - TIE).numpy(), axis=1)
        before_T += np.count_nonzero((similarity >= truth_T - TIE).numpy(), axis=0)
    return 1 + ranks.add_up(before_I), 1 + ranks.add_up(before_T)


class Candidates(NamedTuple):
    """The pairs that are among the best of their image or of their text."""

    pairs: Ints
    """(C,), ascending: image * T + text."""
    of_images: Bools
    """(C,): whether its image chose it."""
    of_texts: Bools
    """(C,): whether its text chose it."""


NO_CANDIDATES = Candidates(np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0, np.bool_))


def candidates(images_IE: Tensor, texts_TE: Tensor, k: int, ranks: Ranks) -> Candidates:
    """The `k` best pairs of each image and of each text."""
    image_T, text_I = min(k, len(images_IE)), min(k, len(texts_TE))
    top_IK, top_TK = np.zeros((len(images_IE), text_I), np.int64), np.zeros((len(texts_TE), image_T), np.int64)
    for part in chunks(len(images_IE), ranks):
        top_IK[part] = (images_IE[part] @ texts_TE.T).topk(text_I).indices.numpy()
    for part in chunks(len(texts_TE), ranks):
        top_TK[part] = (texts_TE[part] @ images_IE.T).topk(image_T).indices.numpy()
    top_IK, top_TK = ranks.add_up(top_IK), ranks.add_up(top_TK)
    of_images = np.arange(len(images_IE))[:, None] * len(texts_TE) + top_IK
    of_texts = top_TK * len(texts_TE) + np.arange(len(texts_TE))[:, None]
    pairs = np.union1d(of_images, of_texts)
    return Candidates(pairs, np.isin(pairs, of_images), np.isin(pairs, of_texts))


RULES = ("ms", "albef")
"""Which candidates a query ranks: in Microsoft's code all that it is in, whoever chose them; in ALBEF's its own choice."""


def itm_ranks(
    chosen: Candidates, score_C: Floats, owner_T: Ints, by_itc: tuple[Ints, Ints], rule: str = "ms"
) -> tuple[Ints, Ints]:
    """As `itc_ranks`, where the candidates rank before all others, in the order of their scores; `rule` is one of RULES.

    What belongs to a query but was not scored keeps its rank by the contrast, after all that was.
    """
    image_C, text_C = np.divmod(chosen.pairs, len(owner_T))
    own_C = owner_T[text_C] == image_C
    ranked = []
    sides = zip((image_C, text_C), (chosen.of_images, chosen.of_texts), by_itc, strict=True)
    for query_C, choice_C, rank in sides:
        counts_C = choice_C if rule == "albef" else np.ones_like(choice_C)
        best = np.full(len(rank), -np.inf, dtype=np.float32)
        np.maximum.at(best, query_C[own_C & counts_C], score_C[own_C & counts_C])
        before = np.bincount(query_C[~own_C & counts_C & (score_C >= best[query_C])], minlength=len(rank))
        ranked.append(np.where(np.isfinite(best), 1 + before, np.maximum(rank, 1 + before)))
    return ranked[0], ranked[1]


def recalls(rank_I: Ints, rank_T: Ints) -> dict[str, float]:
    """R@1, R@5 and R@10 (percent) and median rank of both directions, and RSUM, the sum of the six recalls."""
    figures: dict[str, float] = {}
    for name, rank in (("image to text", rank_I), ("text to image", rank_T)):
        figures |= {f"{name} R@{k}": 100 * float((rank <= k).mean()) for k in (1, 5, 10)}
    figures["RSUM"] = sum(figures.values())
    figures["image to text median rank"] = float(np.median(rank_I))
    figures["text to image median rank"] = float(np.median(rank_T))
    return figures


def recall(similarity_BB: Tensor, group: int = 128, k: int = 1) -> tuple[float, float]:
    """(image to text, text to image) recall at `k`, each among `group` candidates, averaged over the complete groups of B.

    Fewer than `group` rows form one group. An equal score counts against: a model that cannot tell finds nothing.
    """
    count = len(similarity_BB)
    group = min(group, count)
    hits = torch.zeros(2)
    for start in range(0, count - group + 1, group):
        part = similarity_BB[start : start + group, start : start + group]
        truth = part.diagonal()
        hits += torch.stack([((part >= truth[:, None]).sum(1) <= k).sum(), ((part >= truth).sum(0) <= k).sum()])
    image_to_text, text_to_image = (hits / (count // group * group)).tolist()
    return image_to_text, text_to_image
