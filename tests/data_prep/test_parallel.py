"""Results keep the order of the items; failures come through; memory stays bounded."""

import os
import time

import pytest

from bridgetower_train.errors import UserError
from data_prep.parallel import ordered_map


def slow_square(number: int) -> int:
    time.sleep(0.01 if number % 40 == 0 else 0)
    return number * number


def refuse_fifty(number: int) -> int:
    if number == 50:
        raise ValueError("fifty")
    return number


def die_at_fifty(number: int) -> int:
    if number == 50:
        os._exit(1)
    return number


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_order_is_kept(workers: int) -> None:
    assert list(ordered_map(slow_square, iter(range(300)), workers)) == [n * n for n in range(300)]


def test_items_are_taken_only_as_results_are() -> None:
    items = iter(range(100_000))
    results = ordered_map(slow_square, items, 2)
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    time.sleep(0.3)
    assert next(items) <= 2 * 128 + 32
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_here(workers: int) -> None:
    with pytest.raises(ValueError, match="fifty"):
        list(ordered_map(refuse_fifty, range(1000), workers))


def test_a_dead_worker_does_not_hang() -> None:
    with pytest.raises(UserError, match=r"a worker process was killed.*take fewer `workers`"):
        list(ordered_map(die_at_fifty, range(1000), 2))
