"""What the benchmarks share."""

from pathlib import Path

import pytest

from bridgetower_train.bench.kit import BenchConfig, bench, in_turns, print_figures
from bridgetower_train.cli import REMOVED, main
from bridgetower_train.errors import ConfigError


@pytest.mark.parametrize("out", ["/nowhere/f.json", "/tmp"])
def test_an_impossible_out_is_refused_before_anything_is_measured(out):
    with pytest.raises(ConfigError, match=f"out={out}: must be a file in an existing folder"):
        bench("toy", lambda config: pytest.fail("was measured"), {})(BenchConfig(out=out))


def test_steps_take_turns_and_the_first_round_does_not_count():
    order, now = [], iter([0, 100, 100, 200, 0, 1, 1, 3, 3, 6, 6, 10])
    taken = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, lambda: next(now))
    assert order == ["a", "b"] * 3
    assert taken == {"a": [1, 3], "b": [2, 4]}


def test_rows_of_a_table_may_lack_columns(capsys):
    print_figures(
        {"t": {"one": {"a": 1, "b": 0.25}, "two": {"b": 1234.5}}, "n": 14_000_000},
        {"t": "a table", "a": "first", "b": "second", "n": "a number"},
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["n", "14,000,000", "a", "number"]
    assert lines[-2:] == [["one", "1", "0.25"], ["two", "1,234"]]


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_command_says_where_its_answer_is(name, capsys):
    assert main([*name.split(), "corpus=data/coco"]) == 2
    said = capsys.readouterr().err
    assert f"{name}: was removed" in said
    files = [word for word in said.split() if word.endswith(".md")]
    assert all((Path(__file__).parents[2] / file).exists() for file in files)
    assert files
