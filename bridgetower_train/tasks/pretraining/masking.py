"""BERT's masking (Devlin et al., 2019, section 3.1), as a pure function of the seed and the position in the run.

B texts, L text length, M masked places per text.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bridgetower_train import random
from bridgetower_train.data.text import CaptionTokenizer

IGNORE = -100
"""Label of an empty place among the masked tokens."""

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen tokens, how many become `<mask>` and how many a random token; the others stay."""


def max_masked_tokens(probability: float, max_len: int) -> int:
    """M: the most tokens that are masked in a text of `max_len` tokens, `<s>` and `</s>` included."""
    return math.ceil(probability * (max_len - 2))


def mask_tokens(
    tokenizer: CaptionTokenizer,
    ids: Tensor,
    position: npt.NDArray[np.int64],
    seed: int,
    probability: float,
    places: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(masked ids (B, L), masked places (B, M), labels (B, M)), all int64, of the texts `ids` (B, L).

    `position` (B,) says where in the run each text stands. Of a text's n tokens, specials aside,
    floor(probability * n + u) are chosen (u uniform in [0, 1)), so that their share is `probability` at any length. Empty
    places hold 0 and the label IGNORE.
    """
    ids_BL = ids.numpy()
    position_B1 = position[:, None]
    maskable_BL = ~tokenizer.special[ids_BL]
    length = ids_BL.shape[1]
    count_B = np.floor(probability * maskable_BL.sum(1) + random.uniform(seed, "mask.count", position)).astype(np.int64)
    lottery_BL = random.bits(seed, "mask.place", position_B1, np.arange(length))
    lottery_BL[~maskable_BL] = np.iinfo(np.uint64).max
    drawn = np.argsort(lottery_BL, axis=1)[:, :places]
    place_BM = np.full((len(ids_BL), places), length)
    place_BM[:, : drawn.shape[1]] = np.where(np.arange(drawn.shape[1]) < count_B[:, None], drawn, length)
    place_BM.sort(axis=1)
    chosen_BM = place_BM < length
    place_BM[~chosen_BM] = 0

    original_BM = np.take_along_axis(ids_BL, place_BM, axis=1)
    kind_BM = random.uniform(seed, "mask.kind", position_B1, place_BM)
    other_BM = tokenizer.ordinary[random.below(seed, "mask.token", len(tokenizer.ordinary), position_B1, place_BM)]
    kept_BM = np.where(kind_BM < MASK_SHARE + RANDOM_SHARE, other_BM, original_BM)
    shown_BM = np.where(kind_BM < MASK_SHARE, tokenizer.mask, kept_BM)
    masked_BL = ids_BL.copy()
    masked_BL[np.nonzero(chosen_BM)[0], place_BM[chosen_BM]] = shown_BM[chosen_BM]
    label_BM = np.where(chosen_BM, original_BM, IGNORE)
    return torch.from_numpy(masked_BL), torch.from_numpy(place_BM), torch.from_numpy(label_BM)
