"""Text of others is text in Markdown, by a parser of CommonMark with GitHub's tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgetower_train.pages.markdown import Markdown, code, fill, link, one_line, table, text
from tests.rendering import markup, read

HOSTILE = [
    "<script>alert(1)</script>", "<!-- -->", "x\r# Injected", "x\n\n## Injected", "x\n---\n", "[a](javascript:alert(1))",
    "![i](http://evil/x.png)", "[a]: http://evil", "```\nrm -rf\n```", "~~~", "a | b | c", "a\\|b", "`x` \\`", "*a* __b__ ~~c~~",
    "&lt;b&gt; &#60;", "<http://evil>", "$$x$$", "\x1b]0;PWNED\x07\u202e\u2028# y", "trailing \\", "http://u:p@h/_x_",
]  # fmt: skip


def test_a_table_whatever_its_cells_contain():
    assert table(["name", "rows"], [["a|b\nc", 3]]) == "| name | rows |\n| --- | ---: |\n| a\\|b c | 3 |\n"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_is_only_text(hostile):
    line = fill(
        "# {title}\n\n- note: {note}\n\n{rows}", title=hostile, note=hostile, rows=table(["a", hostile], [[hostile, 1]])
    )
    plain = fill("# {title}\n\n- note: {note}\n\n{rows}", title="x", note="x", rows=table(["a", "x"], [["x", 1]]))
    assert markup(line) == markup(plain)


@given(st.text(st.sampled_from("\\`*_{}[]()<>#+-.!|~&$:/@ \n\ra") | st.characters(), max_size=30))
def test_text_reads_as_it_was(given):
    assert read(f"x{text(given)}x") == f"x{one_line(given)}x"
    assert markup(f"x{text(given)}x") == markup("x")
    assert read(table([given], [[code(given)]])) == 2 * one_line(given)


def test_what_is_read():
    assert read(text("a_b_ *c* <d> & [e](f) \\ | g\r\nh")) == "a_b_ *c* <d> & [e](f) \\ | g h"
    assert text(Markdown("`x`")) == "`x`"
    assert text("shapes_heldout") == "shapes_heldout"


def test_code_ends_where_it_should():
    assert code("init.text=x.bin") == "`init.text=x.bin`"
    assert code("a`b") == "a\\`b"
    assert code("a|b") == "a\\|b"
    assert code("") == ""


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("https://example.org/a_(b)?x=1&copy=2", "https://example.org/a_%28b%29?x=1&copy=2"),
        ("http://h/](x) <b>", "http://h/%5D%28x%29%20%3Cb%3E"),
        ("http://u:p@h/", "http://***@h/"),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        ("https:nohost", None),
        ("https://[::1", None),
        ("//h/x", None),
    ],
)
def test_only_addresses_on_the_web_are_links(address, target):
    assert markup(link("a title", address)).count("link_opena") == (target is not None)
    assert read(link("a title", address)) == ("a title" if target else f"a title ({address})")
    if target:
        assert f'href="{target}"'.replace("&", "&amp;") in read(link("a title", address), html=True)
