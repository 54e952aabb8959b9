"""Repeated hashes are found, as a dictionary would find them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.inspect.duplicates import BYTES, NONE, find_duplicates, image_hash, original_hash

few = st.lists(st.integers(0, 6), max_size=30)


def as_hashes(numbers: list[int], other_half: list[int]) -> np.ndarray:
    array = np.zeros((len(numbers), 2), np.uint64)
    array[:, 0] = numbers
    array[:, 1] = [bool(number) * half for number, half in zip(numbers, other_half, strict=True)]
    return array


@given(few, few)
def test_duplicates(images, originals):
    size = min(len(images), len(originals))
    hashes = as_hashes(images[:size], [7] * size), as_hashes(originals[:size], [9] * size)
    first: list[dict[int, int]] = [{}, {}]
    expected = {}
    for row in range(size):
        for kind, values in enumerate((images, originals)):
            if values[row]:
                origin = first[kind].setdefault(values[row], row)
                if origin != row:
                    expected.setdefault(row, origin)
    found = find_duplicates(*hashes)
    assert dict(zip(found.row.tolist(), found.first.tolist(), strict=True)) == expected
    assert (np.diff(found.row) > 0).all()


def test_both_halves_count():
    none = np.zeros((3, 2), np.uint64)
    assert find_duplicates(as_hashes([5, 5, 5], [1, 2, 2]), none).row.tolist() == [2]


def test_hashes():
    assert len(image_hash(b"a")) == BYTES
    assert image_hash(b"a") != image_hash(b"b")
    assert original_hash({"sha256": "ab" * 32}) == bytes([0xAB]) * BYTES
    for meta in ({}, {"sha256": None}, {"sha256": "no hex"}, {"sha256": 7}):
        assert original_hash(meta) == NONE
