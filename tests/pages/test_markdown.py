"""Markdown tables."""

from bridgetower_train.pages.markdown import table


def test_a_table_whatever_its_cells_contain():
    assert table(["name", "rows"], [["a|b\nc", 3]]) == "| name | rows |\n| --- | ---: |\n| a\\|b c | 3 |\n"
