"""Markdown that escapes by default: text is `str`, and only `Markdown` is left as it is. CommonMark and GitHub's tables."""

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from bridgetower_train.display import printable, without_secrets

_SPECIAL = re.compile(r"[\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore between letters is only that
_RESERVED = ":/?#@!*+,;=$&'%~"  # in a URL's place; brackets and parentheses would end it


class Markdown(str):
    """Markdown, inserted unescaped."""


def text(value: object) -> Markdown:
    """Text within a line, as it is read: without line breaks, repeated blanks and secrets, and nothing in it is markup."""
    return value if isinstance(value, Markdown) else Markdown(_SPECIAL.sub(r"\\\g<0>", one_line(value)))


def code(value: object) -> Markdown:
    """Text within a line as code; as `text` if something in it could end the code."""
    line = one_line(value)
    return text(line) if not line or set(line) & set("`|") else Markdown(f"`{line}`")


def link(title: object, url: str) -> Markdown:
    """A link to an address on the web; for any other address, both as text."""
    address = one_line(url)
    try:
        web = urlsplit(address).scheme in ("http", "https") and bool(urlsplit(address).netloc)
    except ValueError:  # an unfinished IPv6 address
        web = False
    if web:
        return Markdown(f"[{text(title)}]({quote(address, _RESERVED).replace('&', '&amp;')})")
    return text(address if title == url else f"{title} ({url})")


def table(header: Sequence[object], rows: Iterable[Iterable[object]], left: int = 1) -> Markdown:
    """A table. Its first `left` columns are aligned to the left, the others, of numbers, to the right."""
    rule = [Markdown("---" if column < left else "---:") for column in range(len(header))]
    lines = (f"| {' | '.join(map(text, cells))} |" for cells in (header, rule, *rows))
    return Markdown("\n".join(lines) + "\n")


def fill(template: str, **values: object) -> Markdown:
    """`str.format` of a template in Markdown; the values are escaped."""
    return Markdown(_Escaping().vformat(template, (), values))


class _Escaping(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return value if isinstance(value, Markdown) else text(super().format_field(value, format_spec))


def one_line(value: object) -> str:
    """Text without line breaks, repeated blanks, control characters and secrets."""
    return printable(without_secrets(" ".join(str(value).split())))
