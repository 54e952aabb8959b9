"""ITM negatives: another image of the same lane and step, uniformly, for every split of the batch."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgetower_train.tasks.pretraining.negatives import itm_negatives


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 1000),
    st.integers(0, 2**31),
)
def test_negatives_are_other_images_of_the_same_lane(images, samples_per_lane, first, seed):
    image_id, position = np.array(images), np.arange(first, first + len(images))
    negative = itm_negatives(image_id, position, samples_per_lane, seed)
    for row, other in enumerate(negative):
        candidates = np.flatnonzero(
            (position // samples_per_lane == position[row] // samples_per_lane) & (image_id != image_id[row])
        )
        if len(candidates):
            assert other in candidates
        else:
            assert other == row


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=24, max_size=24), st.sampled_from([4, 8, 12]), st.integers(0, 9))
def test_negatives_do_not_hang_on_how_the_batch_is_split(images, size, seed):
    image_id, position = np.array(images), np.arange(240, 264)
    whole = itm_negatives(image_id, position, 4, seed)
    for begin in range(0, 24, size):
        part = slice(begin, begin + size)
        assert np.array_equal(itm_negatives(image_id[part], position[part], 4, seed) + begin, whole[part])


def test_negatives_are_uniform_and_depend_on_the_seed():
    image_id = np.tile([5, 5, 7, 8, 9, 9], 10_000)
    position = np.arange(60_000)
    negative = itm_negatives(image_id, position, 6, 0)
    for row in range(6):
        drawn = np.bincount(negative[row::6] % 6, minlength=6)
        candidates = np.flatnonzero(image_id[:6] != image_id[row])
        share = 1 / len(candidates)
        assert drawn.sum() == drawn[candidates].sum()
        assert np.all(np.abs(drawn[candidates] - 10_000 * share) < 5 * math.sqrt(10_000 * share * (1 - share)))
    assert not np.array_equal(negative, itm_negatives(image_id, position, 6, 1))
