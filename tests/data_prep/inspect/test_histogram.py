"""Counts of whole numbers say what the numbers themselves say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.inspect.histogram import LIMIT, Histogram

numbers = st.lists(st.integers(0, 300), min_size=1, max_size=50)


@given(numbers, numbers, st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_it_agrees_with_numpy(first, second, share):
    histogram, other = Histogram(), Histogram()
    histogram.add(first)
    other.add(second)
    histogram.merge(other)
    values = np.array(first + second)
    assert histogram.total == len(values)
    assert histogram.mean == pytest.approx(values.mean())
    assert histogram.largest == values.max()
    assert histogram.quantile(share) == np.quantile(values, share, method="inverted_cdf")
    assert histogram.above(20) == (values > 20).sum()


def test_large_numbers_are_held_in_the_last_place():
    histogram = Histogram()
    histogram.add([3, LIMIT + 7])
    histogram.add([])
    assert (histogram.total, histogram.largest, histogram.mean) == (2, LIMIT + 7, (LIMIT + 10) / 2)
    assert histogram.quantile(1) == LIMIT
