"""Which image of the batch makes a mismatched pair with each text."""

import numpy as np
import numpy.typing as npt

from bridgetower_train import random

IntArray = npt.NDArray[np.int64]


def itm_negatives(image_id: IntArray, position: IntArray, samples_per_lane: int, seed: int) -> IntArray:
    """int64 (B,): for each row, a row with another `image_id` among those that its lane gives to the same step.

    Uniform among them, and its own row where there is none. `position` (B,) is the place of each row in the run; a lane
    gives `samples_per_lane` consecutive positions to a step, so the choice depends neither on ranks nor on micro-batches.
    """
    group = position // samples_per_lane
    key = group - group.min() << 31 | image_id
    order = np.argsort(key, kind="stable")  # a group lies together in it, and in a group each image
    key = key[order]
    image_begin, image_end = key.searchsorted(key, "left"), key.searchsorted(key, "right")
    group = key >> 31
    group_begin, group_end = group.searchsorted(group, "left"), group.searchsorted(group, "right")
    image_size = image_end - image_begin
    others = group_end - group_begin - image_size
    place = group_begin + random.below(seed, "itm.negative", others, position[order])
    place += np.where(place >= image_begin, image_size, 0)
    negative = np.empty_like(order)
    negative[order] = order[np.where(others > 0, place, np.arange(len(order)))]
    return negative
