"""Markup escapes by default, and a page needs nothing but itself."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgetower_train.pages.chart import value_axis
from bridgetower_train.pages.html import Markup, element, join, page, sections, table
from bridgetower_train.pages.numbers import MINUS, duration, figure, size, tick, ticks

EVIL = "<b onclick='x'>&\"</b>"


def test_text_is_escaped_and_markup_is_not():
    escaped = "&lt;b onclick=&#x27;x&#x27;&gt;&amp;&quot;&lt;/b&gt;"
    assert element("p", EVIL, class_=EVIL) == f'<p class="{escaped}">{escaped}</p>'
    assert join(element("i", "x"), EVIL, [Markup("<hr>"), EVIL]) == f"<i>x</i>{escaped}<hr>{escaped}"
    assert EVIL not in table([EVIL], [[EVIL]]) + sections({EVIL: EVIL})


def test_elements_without_content_and_absent_attributes():
    assert element("img", src="data:,", alt=None, data_name="a") == '<img src="data:," data-name="a">'


def test_a_page_loads_nothing():
    text = page(EVIL, "x")
    assert EVIL not in text
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"https?://|url\(|@import", text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345, "12,345"), (3.0, "3"), (0.97131, "0.9713"), (123.456, "123.5"), (2.5e-5, "2.5e\N{MINUS SIGN}5"),
     (None, "none"), (float("nan"), "not a number"), ("cpu", "cpu"), (True, "True")],
)  # fmt: skip
def test_figure(value, text):
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.25, "0.25"), (4000.0, "4,000"), (40000.0, "40k"), (1.5e6, "1.5M"), (5e-5, "5e\N{MINUS SIGN}5")],
)
def test_tick(value, text):
    assert tick(value) == text


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.69335, 0.69344, ["0.693350", "0.693375", "0.693400", "0.693425", "0.693450"]),
        (0, 1, ["0", "0.25", "0.50", "0.75", "1.00"]),
        (0, 12_000, ["0", "5k", "10k", "15k"]),
        (0, 1e-3, ["0", f"2.5e{MINUS}4", f"5e{MINUS}4", f"7.5e{MINUS}4", f"1e{MINUS}3"]),
        (-1, 1, [f"{MINUS}1.0", f"{MINUS}0.5", "0", "0.5", "1.0"]),
        (1_000_100, 1_000_400, ["1.0001M", "1.0002M", "1.0003M", "1.0004M"]),
    ],
)
def test_digits_of_ticks_follow_their_step(low, high, texts):
    assert ticks(value_axis(low, high).ticks) == texts


@given(st.floats(-1e12, 1e12).filter(lambda low: low == 0 or abs(low) > 1e-12), st.floats(1e-7, 3))
def test_each_tick_of_an_axis_says_where_it_is(low, spread):
    axis = value_axis(low, low + spread * abs(low))
    units = {"k": 1e3, "M": 1e6}
    for value, text in zip(axis.ticks, ticks(axis.ticks), strict=True):
        number = text.replace(MINUS, "-").replace(",", "")
        read = float(number.rstrip("kM")) * units.get(number[-1], 1)
        assert read == pytest.approx(value, abs=1e-3 * (axis.ticks[1] - axis.ticks[0]))


def test_sizes_and_durations():
    assert [size(n) for n in (0, 999, 1000, 1.2e9)] == ["0 B", "999 B", "1 kB", "1.2 GB"]
    assert [duration(s) for s in (3, 60, 59.7, 3600 * 2 + 779, 86400 * 3)] == [
        "3 s",
        "1 min",
        "60 s",
        "2 h 13 min",
        "3 d",
    ]
