"""Which image of the batch forms a mismatched pair with each text."""

import numpy as np

from bridgetower_train import random
from bridgetower_train.data.order import IntArray


def itm_negatives(image_id: IntArray, sample_index: IntArray, samples_per_lane: int, seed: int) -> IntArray:
    """int64 (B,): for each row, a row with another `image_id` among the samples of the same lane in the same step.

    Uniform among them; the row itself if there is none. `sample_index` (B,) is the index of each row's sample in the run. A
    step takes `samples_per_lane` consecutive samples of a lane, so the choice depends neither on ranks nor on micro-batches.
    """
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
