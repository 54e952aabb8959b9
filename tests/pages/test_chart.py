"""What a chart draws: every extreme, on axes that hold it."""

import json
import re
from html import unescape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgetower_train.pages.chart import RAW_POINTS, Curve, chart, running_mean, step_axis, thin, value_axis


def curve(values, **keys):
    values = np.asarray(values, dtype=np.float64)
    return Curve("c", "plain", np.arange(1.0, len(values) + 1), values, **keys)


def paths(text, name):
    return re.findall(rf'<path class="{name}[^"]*" d="([^"]*)"', text)


def points(path):
    return np.array([[float(n) for n in p.split(",")] for p in path[1:].split()])


def test_thinning_keeps_ends_and_extremes():
    rng = np.random.default_rng(0)
    steps, values = np.arange(100_000.0), rng.normal(size=100_000)
    values[41_234], values[77_001] = 50, -50
    few, kept = thin(steps, values, RAW_POINTS)
    assert len(few) <= RAW_POINTS + 2
    assert {0.0, 41_234.0, 77_001.0, 99_999.0} <= set(few.tolist())
    assert (np.diff(few) > 0).all()
    assert np.array_equal(values[few.astype(int)], kept)


def test_running_mean_is_the_mean_of_the_window():
    values = np.random.default_rng(1).normal(size=1000)
    mean = running_mean(values)
    assert mean[500] == pytest.approx(values[485:516].mean())
    assert mean[0] == pytest.approx(values[:16].mean())
    assert mean[-1] == pytest.approx(values[-16:].mean())


finite = st.floats(min_value=-1e12, max_value=1e12, allow_subnormal=False)


@given(finite, finite)
def test_value_axis_holds_its_data_between_ticks(a, b):
    axis = value_axis(min(a, b), max(a, b))
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(a, b) <= max(a, b) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 8
    assert axis.ticks == sorted(set(axis.ticks))


@given(st.floats(min_value=1e-12, max_value=1e12), st.floats(min_value=1e-12, max_value=1e12))
def test_log_axis(a, b):
    axis = value_axis(min(a, b), max(a, b), log=True)
    low, high = axis.position([min(a, b), max(a, b)])
    assert -1e-9 <= low <= high <= 1 + 1e-9
    assert 2 <= len(axis.ticks) <= 7


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_step_axis_ends_at_the_last_step(a, b):
    axis = step_axis(min(a, b), max(a, b))
    assert axis.low <= min(a, b)
    assert axis.high >= max(a, b)
    assert all(axis.low <= t <= axis.high for t in axis.ticks)


def test_the_path_goes_through_the_values():
    text = chart("t", [curve([0, 1, 4], smooth=False)], (0, 3))
    ticks = re.findall(r'class="([xy])" style="\w+:([\d.]+)%">([\d.]+)<', text)
    assert [(float(at), label) for kind, at, label in ticks if kind == "y"] == [
        (100, "0"), (75, "1"), (50, "2"), (25, "3"), (0, "4")
    ]  # fmt: skip
    assert [(float(at), label) for kind, at, label in ticks if kind == "x"][::3] == [(0, "0"), (100, "3")]
    assert points(paths(text, "line")[0]) == pytest.approx(np.array([[333.3, 1000], [666.7, 750], [1000, 0]]), abs=0.1)


def test_a_long_noisy_curve_is_small_and_keeps_its_spike():
    values = np.random.default_rng(0).uniform(1, 2, 100_000)
    values[5000] = 9
    text = chart("t", [curve(values)], (0, 100_000))
    assert len(text) < 40_000
    raw, line = points(paths(text, "raw")[0]), points(paths(text, "line")[0])
    assert raw[:, 1].min() == pytest.approx(100)  # 9 on an axis from 0 to 10
    assert np.ptp(line[:, 1]) < 60


def test_a_log_chart_is_not_lifted_by_a_spike():
    values = np.ones(1000)
    values[500] = 1e4
    line = points(paths(chart("t", [curve(values)], (0, 1000), log=True), "line")[0])
    assert line[:, 1].min() > 900  # of four powers of ten, less than 0.4


def test_a_log_chart_of_like_values_is_linear():
    line = points(paths(chart("t", [curve([2, 4, 6], smooth=False)], (1, 3), log=True), "line")[0])
    assert np.diff(line[:, 1], n=2) == pytest.approx(0, abs=0.2)


def test_values_that_cannot_be_drawn_leave_gaps():
    text = chart("t", [curve([1, np.nan, np.inf, 2, 3], smooth=False)], (0, 5))
    assert len(points(paths(text, "line")[0])) == 3
    read = json.loads(unescape(re.search(r'data-curves="([^"]*)"', text)[1]))
    assert read[0]["steps"] == [1, 4, 5]
    assert chart("t", [curve([np.nan])], (0, 1)) == ""
    assert chart("t", [curve([0, -1])], (0, 1), log=True) == ""
    assert chart("t", [], (0, 1)) == ""


def test_one_point_is_a_dot():
    text = chart("t", [curve([2.5])], (1, 1))
    assert paths(text, "line") == []
    assert len(paths(text, "dots")) == 1


def test_titles_and_labels_are_escaped():
    text = chart("<i>", [Curve("<b>", "plain", np.arange(3.0), np.arange(3.0)), curve([1, 2])], (0, 2))
    assert "<i>" not in text
    assert "<b><" not in text
    assert "&lt;b&gt;" in text
