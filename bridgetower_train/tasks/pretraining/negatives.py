"""Which image of the batch forms a mismatched pair with each text.

Shapes: B samples, L text length.
"""

import numpy as np
import numpy.typing as npt

from bridgetower_train import random
from bridgetower_train.data.order import IntArray

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd: a multiplier that mixes all bits


def text_ids(ids_BL: IntArray, mask_BL: npt.NDArray[np.bool_]) -> IntArray:
    """int64 (B,), below 2^31: a hash of each text's tokens, whatever their padding."""
    place = np.arange(1, ids_BL.shape[1] + 1, dtype=np.uint64) * _ODD
    mixed = (ids_BL.astype(np.uint64) + place) * _ODD
    mixed ^= mixed >> np.uint64(32)
    total = np.where(mask_BL, mixed * _ODD, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    ids: IntArray = (total >> np.uint64(33)).astype(np.int64)
    return ids


def itm_negatives(
    image_id: IntArray, text_id: IntArray, sample_index: IntArray, samples_per_lane: int, seed: int
) -> IntArray:
    """int64 (B,): for each row, one with another image and another text among the samples of the same lane in the same step.

    Uniform among them; the row itself if there is none. `sample_index` (B,) is the index of each row's sample in the run. A
    step takes `samples_per_lane` consecutive samples of a lane, so the choice depends neither on ranks nor on micro-batches.
    """
    negative = _other_images(image_id, sample_index, samples_per_lane, seed)
    group = sample_index // samples_per_lane
    for row in np.flatnonzero((text_id[negative] == text_id) & (negative != np.arange(len(negative)))):
        allowed = np.flatnonzero((group == group[row]) & (image_id != image_id[row]) & (text_id != text_id[row]))
        negative[row] = (
            row if not len(allowed) else allowed[random.below(seed, "itm.again", len(allowed), sample_index[row])]
        )
    return negative


def _other_images(image_id: IntArray, sample_index: IntArray, samples_per_lane: int, seed: int) -> IntArray:
    """`itm_negatives` without regard to texts."""
    group = sample_index // samples_per_lane
    key = group - group.min() << 31 | image_id
    order = np.argsort(key, kind="stable")  # sorted by group, and within a group by image
    key = key[order]
    image_begin, image_end = key.searchsorted(key, "left"), key.searchsorted(key, "right")
    group = key >> 31
    group_begin, group_end = group.searchsorted(group, "left"), group.searchsorted(group, "right")
    image_size = image_end - image_begin
    others = group_end - group_begin - image_size
    row = group_begin + random.below(seed, "itm.negative", others, sample_index[order])
    row += np.where(row >= image_begin, image_size, 0)
    negative = np.empty_like(order)
    negative[order] = order[np.where(others > 0, row, np.arange(len(order)))]
    return negative
