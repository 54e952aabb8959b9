"""ITM negatives: another image of the same lane and step, uniformly, for every split of the batch; and ids of texts."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgetower_train.tasks.pretraining.negatives import itm_negatives, text_ids


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 1000),
    st.integers(0, 2**31),
)
def test_negatives_are_other_images_of_the_same_lane_with_another_text(pairs, samples_per_lane, first, seed):
    (image_id, text_id), position = np.array(pairs).T, np.arange(first, first + len(pairs))
    negative = itm_negatives(image_id, text_id, position, samples_per_lane, seed)
    for row, other in enumerate(negative):
        candidates = np.flatnonzero(
            (position // samples_per_lane == position[row] // samples_per_lane)
            & (image_id != image_id[row])
            & (text_id != text_id[row])
        )
        if len(candidates):
            assert other in candidates
        else:
            assert other == row


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=24, max_size=24),
    st.sampled_from([4, 8, 12]),
    st.integers(0, 9),
)
def test_negatives_do_not_hang_on_how_the_batch_is_split(pairs, size, seed):
    (image_id, text_id), position = np.array(pairs).T, np.arange(240, 264)
    whole = itm_negatives(image_id, text_id, position, 4, seed)
    for begin in range(0, 24, size):
        part = slice(begin, begin + size)
        assert np.array_equal(
            itm_negatives(image_id[part], text_id[part], position[part], 4, seed) + begin, whole[part]
        )


def test_negatives_are_uniform_and_depend_on_the_seed():
    image_id, text_id = np.tile([5, 5, 7, 8, 9, 9], 10_000), np.tile([1, 2, 1, 3, 4, 5], 10_000)
    position = np.arange(60_000)
    negative = itm_negatives(image_id, text_id, position, 6, 0)
    for row in range(6):
        drawn = np.bincount(negative[row::6] % 6, minlength=6)
        candidates = np.flatnonzero((image_id[:6] != image_id[row]) & (text_id[:6] != text_id[row]))
        share = 1 / len(candidates)
        assert drawn.sum() == drawn[candidates].sum()
        assert np.all(np.abs(drawn[candidates] - 10_000 * share) < 5 * math.sqrt(10_000 * share * (1 - share)))
    assert not np.array_equal(negative, itm_negatives(image_id, text_id, position, 6, 1))


def test_equal_texts_have_equal_ids_whatever_their_padding():
    ids = np.array([[0, 7, 8, 2, 1, 1], [0, 7, 8, 2, 9, 9], [0, 8, 7, 2, 1, 1], [0, 7, 8, 8, 2, 1], [0, 7, 8, 2, 2, 1]])
    mask = np.arange(6) < np.array([4, 4, 4, 5, 5])[:, None]
    found = text_ids(ids, mask)
    assert found[0] == found[1] == text_ids(ids[:1, :4], mask[:1, :4])[0]
    assert len(set(found.tolist())) == 4
    assert ((found >= 0) & (found < 2**31)).all()


def test_ids_of_texts_rarely_collide():
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(3, 50, (20_000, 5)), axis=0)
    assert len(ids) - len(np.unique(text_ids(ids, np.ones_like(ids, dtype=bool)))) <= 2
