"""BERT's masking (Devlin et al., 2019, section 3.1), as a pure function of the seed and the sample's index in the run.

Shapes: B texts, L text length, M masked tokens per text.
"""

import math

import numpy as np
import torch
from torch import Tensor

from bridgetower_train import random
from bridgetower_train.data.order import IntArray
from bridgetower_train.data.text import CaptionTokenizer

IGNORE = -100
"""Label of padding among the M masked tokens."""

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Fractions of the chosen tokens that become `<mask>` and a random token; the others stay unchanged."""


def max_masked_tokens(probability: float, max_len: int) -> int:
    """M: the largest number of masked tokens in a text of `max_len` tokens, `<s>` and `</s>` included."""
    return math.ceil(probability * (max_len - 2))


def mask_tokens(
    tokenizer: CaptionTokenizer,
    ids: Tensor,
    sample_index: IntArray,
    seed: int,
    probability: float,
    masked_tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(masked ids (B, L), positions of the masked tokens (B, M), labels (B, M)), all int64, of the texts `ids` (B, L).

    `sample_index` (B,) is the index of each text's sample in the run, `masked_tokens` is M. Of a text's n tokens, special
    ones not counted, floor(probability * n + u) are chosen (u uniform in [0, 1)), so that their expected fraction is
    `probability` at any length. Beyond them, positions are 0 and labels IGNORE.
    """
    ids_BL = ids.numpy()
    index_B1 = sample_index[:, None]
    maskable_BL = ~tokenizer.special[ids_BL]
    length = ids_BL.shape[1]
    uniform_B = random.uniform(seed, "mask.count", sample_index)
    count_B = np.floor(probability * maskable_BL.sum(1) + uniform_B).astype(np.int64)
    lottery_BL = random.bits(seed, "mask.place", index_B1, np.arange(length))
    lottery_BL[~maskable_BL] = np.iinfo(np.uint64).max
    drawn = np.argsort(lottery_BL, axis=1)[:, :masked_tokens]
    position_BM = np.full((len(ids_BL), masked_tokens), length)
    position_BM[:, : drawn.shape[1]] = np.where(np.arange(drawn.shape[1]) < count_B[:, None], drawn, length)
    position_BM.sort(axis=1)
    chosen_BM = position_BM < length
    position_BM[~chosen_BM] = 0

    original_BM = np.take_along_axis(ids_BL, position_BM, axis=1)
    kind_BM = random.uniform(seed, "mask.kind", index_B1, position_BM)
    other_BM = tokenizer.ordinary[random.below(seed, "mask.token", len(tokenizer.ordinary), index_B1, position_BM)]
    kept_BM = np.where(kind_BM < MASK_SHARE + RANDOM_SHARE, other_BM, original_BM)
    shown_BM = np.where(kind_BM < MASK_SHARE, tokenizer.mask, kept_BM)
    masked_BL = ids_BL.copy()
    masked_BL[np.nonzero(chosen_BM)[0], position_BM[chosen_BM]] = shown_BM[chosen_BM]
    label_BM = np.where(chosen_BM, original_BM, IGNORE)
    return torch.from_numpy(masked_BL), torch.from_numpy(position_BM), torch.from_numpy(label_BM)
