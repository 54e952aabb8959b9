"""The rules of `keep`."""

import pytest

from bridgetower_train.errors import ConfigError
from data_prep.packed.keep import parse_keep
from tests.hostile.attacks import attack

RECORD = {
    "similarity": 0.3,
    "width": 640,
    "kind": "photo",
    "safe": True,
    "score": "0.5",
    "exif": {"iso": 100},
    "a.b": 1,
    "none": None,
}


def reason(text: str) -> str:
    return next(filter(None, (rule.reason(RECORD) for rule in parse_keep(text))), "")


@pytest.mark.parametrize(
    "text",
    ["", "  ", "similarity>0.28 and width>=200", "width = 640", "width!=641", "not width<640", "kind=='photo' and safe=true",
     'kind != "x" and not (safe = false)', "width<3 or width>3", "width<3 and width<2 or kind='photo'", "score>=.5",
     "exif.iso<1e3", "a.b=1", "(width>1 and (width>2))", "width>-3.5"],
)  # fmt: skip
def test_records_that_are_kept(text):
    assert reason(text) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("similarity > 0.31  and width>=200", "not similarity > 0.31"),
        ("similarity>0.28 and width >= 1000", "not width >= 1000"),
        ("width<3 or  kind='x'", "not width<3 or kind='x'"),
        ("width>3 and (width<9 or width<8) and kind='x'", "not (width<9 or width<8)"),
        ("nsfw=false and width>1", "not nsfw=false: no nsfw"),
        ("not nsfw=true", "not not nsfw=true: no nsfw"),
        ("none>1", "not none>1: no none"),
        ("kind>3", "not kind>3: kind is no number"),
        ("width>'3'", "not width>'3': width is of another type"),
        ("width.x>3", "not width.x>3: no width.x"),
    ],
)
def test_the_first_rule_that_is_broken_is_the_state(text, expected):
    assert reason(text) == expected


@attack(76)
@pytest.mark.parametrize(
    "text",
    ["width", "width>", ">3", "width>3 and", "width>3 width<4", "(width>3", "width>3)", "width>abc", "width>>3", "not", "and",
     "__import__('os').system('x')", "width>3; 1", "a>1 or", "width>'3", "f(3)>1", "width+1>3", "\N{MINUS SIGN}1<width",
     "'a'='a'", "(" * 60 + "width>3" + ")" * 60, "not " * 3000 + "width>3"],
)  # fmt: skip
def test_anything_else_is_one_line(text):
    with pytest.raises(ConfigError, match=r"^keep[^\n]*$"):
        parse_keep(text)
