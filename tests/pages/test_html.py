"""Markup escapes by default, and a page needs nothing but itself."""

import re

import pytest

from bridgetower_train.pages.html import Markup, element, join, page, sections, table
from bridgetower_train.pages.numbers import duration, figure, size, tick

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


def test_sizes_and_durations():
    assert [size(n) for n in (0, 999, 1000, 1.2e9)] == ["0 B", "999 B", "1 kB", "1.2 GB"]
    assert [duration(s) for s in (3, 60, 59.7, 3600 * 2 + 779, 86400 * 3)] == [
        "3 s",
        "1 min",
        "60 s",
        "2 h 13 min",
        "3 d",
    ]
