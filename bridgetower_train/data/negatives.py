"""Which image of the batch makes a mismatched pair with each text."""

import numpy as np
import numpy.typing as npt

from bridgetower_train import random

IntArray = npt.NDArray[np.int64]


def itm_negatives(image_id: IntArray, position: IntArray, lane_batch: int, seed: int) -> IntArray:
    """int64 (B,): for each row, a row with another `image_id` among those that its lane gives to the same step.

    Uniform among them, and its own row where there is none. `position` (B,) is the place of each row in the run; a lane
    gives `lane_batch` consecutive positions to a step, so the choice depends neither on ranks nor on micro-batches.
    """
    group = position // lane_batch
    order = np.lexsort((position, image_id, group))  # a group lies together in it, and in a group each image
    group_begin, group_size = _runs(group[order])
    image_begin, image_size = _runs(group[order], image_id[order])
    others = group_size - image_size
    drawn = random.below(seed, "itm.negative", others, position[order])
    place = group_begin + drawn
    place += np.where(place >= image_begin, image_size, 0)
    negative = np.empty_like(order)
    negative[order] = np.where(others > 0, order[np.minimum(place, len(order) - 1)], order)
    return negative


def _runs(*keys: IntArray) -> tuple[IntArray, IntArray]:
    """Where the run of equal keys around each element begins, and how long it is."""
    changed = np.any([np.diff(key, prepend=key[0] - 1) != 0 for key in keys], axis=0)
    begin = np.flatnonzero(changed)
    number = np.cumsum(changed) - 1
    return begin[number], np.diff(begin, append=len(changed))[number]
