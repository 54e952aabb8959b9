"""HTML that escapes by default: text is `str`, shown without secrets, and only `Markup` is left as it is."""

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib.resources import files
from typing import TypeAlias

from bridgetower_train.display import without_secrets


class Markup(str):
    """HTML, inserted unescaped."""


Child: TypeAlias = "str | Sequence[Child]"

_EMPTY = ("img", "input", "meta")
"""Elements without content."""


def element(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element. Children are escaped unless they are Markup; `class_` means class, `data_x` data-x, None nothing."""
    given = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    opening = "".join(f' {key}="{_escaped(str(value))}"' for key, value in given)
    if name in _EMPTY:
        return Markup(f"<{name}{opening}>")
    return Markup(f"<{name}{opening}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """The children, escaped unless they are Markup, concatenated."""
    parts = (child if isinstance(child, str) else join(*child) for child in children)
    return Markup("".join(part if isinstance(part, Markup) else _escaped(part) for part in parts))


def _escaped(text: str) -> str:
    return html.escape(without_secrets(text))


def sections(parts: dict[str, Child]) -> Markup:
    """The titled parts of a page, below a line of links to them."""
    anchors = {title: title.lower().replace(" ", "-") for title in parts}
    links = element("nav", *(element("a", title, href=f"#{anchor}") for title, anchor in anchors.items()))
    return join(links, *(element("section", element("h2", t), part, id=anchors[t]) for t, part in parts.items()))


def note(text: str) -> Markup:
    """A sentence of explanation."""
    return element("p", text, class_="note")


def figures(values: dict[str, str]) -> Markup:
    """Name and value pairs as a row of large figures."""
    items = (element("div", element("dt", k), element("dd", v)) for k, v in values.items())
    return element("dl", *items, class_="figures")


def pairs(values: dict[str, str]) -> Markup:
    """Name and value pairs in two columns."""
    return element("dl", *((element("dt", k), element("dd", v)) for k, v in values.items()), class_="pairs")


def table(columns: Sequence[str], rows: Sequence[Sequence[Child]]) -> Markup:
    """A table; on a phone each row becomes a block of named values. Short text is not wrapped."""
    head = element("thead", element("tr", *(element("th", c) for c in columns)))
    body = (element("tr", *(_cell(c, v) for c, v in zip(columns, row, strict=True))) for row in rows)
    return element("table", head, element("tbody", *body), class_="rows")


def matrix(columns: Sequence[str], rows: Sequence[Sequence[Child]]) -> Markup:
    """A table of figures, to be compared at any width: it scrolls sideways beside its first column, which names the rows."""
    head = element("thead", element("tr", *(element("th", c, scope="col") for c in columns)))
    body = (element("tr", element("th", row[0], scope="row"), *(element("td", v) for v in row[1:])) for row in rows)
    whole = element("table", head, element("tbody", *body))
    return element("div", whole, class_="matrix", tabindex=0, role="group", aria_label=f"table by {columns[0]}")


def bar(name: str, share: float, figure: str, class_: str | None = None) -> Markup:
    """An item of a list of class `shares`: a bar of this `share` of the width between name and figure."""
    drawn = element("div", class_="bar", style=f"width:{100 * share:.2f}%")
    return element(
        "li", element("span", name), element("div", drawn, class_="track"), element("em", figure), class_=class_
    )


def _cell(column: str, value: Child) -> Markup:
    return element("td", value, data_name=column, class_="short" if len(value) <= 24 else None)


def policy() -> str:
    """The content security policy of all pages: nothing is loaded, and no script runs except ours."""
    digest = base64.b64encode(hashlib.sha256(_part("page.js").encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def page(title: str, *body: Child) -> str:
    """A self-contained page, under `policy`."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_part("page.css"))),
    )
    content = element("body", element("main", *body), element("script", Markup(_part("page.js"))))
    return f"<!doctype html>\n{element('html', head, content, lang='en')}\n"
