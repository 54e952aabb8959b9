"""What a chart draws: every extreme, on axes that hold it."""

import json
import re
from html import unescape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgetower_train.pages.chart import (
    RAW_POINTS,
    Curve,
    chart,
    doubling_chart,
    running_mean,
    step_axis,
    thin,
    value_axis,
)
from bridgetower_train.pages.html import page


def curve(values, **keys):
    values = np.asarray(values, dtype=np.float64)
    return Curve("c", "plain", np.arange(1.0, len(values) + 1), values, **keys)


PLACES = """
const plot = document.querySelector(".plot").getBoundingClientRect(), places = {};
for (const path of document.querySelectorAll(".plot path")) {
  const box = path.getBoundingClientRect();
  const [left, right] = [box.left, box.right].map((x) => (x - plot.left) / plot.width);
  const [top, bottom] = [box.top, box.bottom].map((y) => (y - plot.top) / plot.height);
  places[path.classList[0]] = {left, right, top, bottom};
}
return places;
"""
"""Class of what is drawn -> how far its edges are across and down the plot."""


@pytest.fixture
def places(tmp_path, open_page):
    """What is drawn of a chart, and where, in a browser."""

    def places(drawn):
        path = tmp_path / "chart.html"
        path.write_text(page("chart", drawn))
        return open_page(path, 1280).execute_script(PLACES)

    return places


def ticks(text, axis):
    """Label -> its place, in per cent."""
    found = re.findall(r'class="([xy])" style="\w+:([\d.]+)%">([\d.,]+)<', text)
    return {label: float(place) for kind, place, label in found if kind == axis}


def curves_of(text):
    """What the pointer reads."""
    return json.loads(unescape(re.search(r'data-curves="([^"]*)"', text)[1]))


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


def test_the_line_goes_through_the_values(places):
    drawn = chart("t", "unit", [curve([0, 1, 4], smooth=False)], (0, 3))
    assert ticks(drawn, "y") == {"0": 100, "1": 75, "2": 50, "3": 25, "4": 0}
    assert (ticks(drawn, "x")["0"], ticks(drawn, "x")["3"]) == (0, 100)
    line = places(drawn)["line"]
    assert line == pytest.approx({"left": 1 / 3, "right": 1, "top": 0, "bottom": 1}, abs=0.01)


def test_a_long_noisy_curve_is_small_and_keeps_its_spike(places):
    values = np.random.default_rng(0).uniform(1, 2, 100_000)
    values[5000] = 9
    drawn = chart("t", "unit", [curve(values)], (0, 100_000))
    assert len(drawn) < 40_000
    found = places(drawn)
    assert found["raw"]["top"] == pytest.approx(0.1, abs=0.01)  # 9 on an axis from 0 to 10
    assert found["line"]["bottom"] - found["line"]["top"] < 0.06


def test_a_log_chart_is_not_lifted_by_a_spike(places):
    values = np.ones(1000)
    values[500] = 1e4
    assert (
        places(chart("t", "unit", [curve(values)], (0, 1000), log=True))["line"]["top"] > 0.9
    )  # of four powers of ten, 0.4


def test_a_log_chart_of_like_values_is_linear():
    found = ticks(chart("t", "unit", [curve([2, 4, 6], smooth=False)], (1, 3), log=True), "y")
    assert found["2"] - found["4"] == pytest.approx(found["4"] - found["6"], abs=0.1)


def test_a_chart_over_a_single_amount_has_its_point_in_the_middle():
    drawn = doubling_chart("Time", "s", "cards", [Curve("a", "mlm", np.array([8.0]), np.array([1.0]))])
    assert "nan" not in drawn
    assert "left:50.00%" in drawn


def test_values_that_cannot_be_drawn_leave_gaps():
    text = chart("t", "unit", [curve([1, np.nan, np.inf, 2, 3], smooth=False)], (0, 5))
    assert curves_of(text)[0]["steps"] == [1, 4, 5]
    assert chart("t", "unit", [curve([np.nan])], (0, 1)) == ""
    assert chart("t", "unit", [curve([0, -1])], (0, 1), log=True) == ""


def test_axes_are_named_and_what_is_smoothed_or_logarithmic_is_said(tmp_path, open_page):
    values = 10 ** np.random.default_rng(0).uniform(0, 4, 200)
    path = tmp_path / "chart.html"
    path.write_text(page("chart", chart("Norm", "L2 norm", [curve(values)], (0, 200), log=True)))
    browser = open_page(path, 390)
    up, across = (browser.find_element("css selector", name).text for name in (".up", ".across"))
    assert up == "L2 norm, log scale; bold: geometric mean of 7 logged values"
    assert across == "step"
    few = chart("Norm", "L2 norm", [curve([2, 4, 6])], (0, 3), log=True)
    assert ">L2 norm<" in few


def test_the_pointer_and_the_arrow_keys_read_what_was_logged_beside_what_is_smoothed(tmp_path, open_page):
    from selenium.webdriver.common.keys import Keys

    path = tmp_path / "chart.html"
    path.write_text(page("chart", chart("t", "unit", [curve(np.arange(100.0) ** 2)], (0, 100))))
    plot = open_page(path, 1280).find_element("css selector", ".plot")
    plot.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    box = plot.find_element("css selector", ".cursor")
    assert box.text.split("\n") == ["step 2", "c 3.5, logged 1"]
    plot.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert box.text.startswith("step 1\n")
