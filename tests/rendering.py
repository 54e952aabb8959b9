"""Markdown and HTML as their readers see them. Markdown: CommonMark with GitHub's tables and strikethrough."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSER = MarkdownIt("gfm-like", {"linkify": False, "html": True})


def _tokens(markdown: str) -> list[Token]:
    return [inner for token in PARSER.parse(markdown) for inner in (token.children or [token])]


def markup(markdown: str) -> list[str]:
    """All that is not text: the kind of each element, in order, and its tag."""
    return [f"{token.type}{token.tag}" for token in _tokens(markdown) if token.type not in ("text", "inline")]


def read(markdown: str, html: bool = False) -> str:
    """The text of a line; with `html`, what it becomes."""
    return PARSER.renderInline(markdown) if html else "".join(token.content for token in _tokens(markdown))


class _Active(HTMLParser):
    """Collects what could run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form"):
            self.found.append(tag)
        for name, value in attrs:
            own = (name == "src" and value.startswith("data:image/")) or (name == "href" and value.startswith("#"))
            if name.startswith("on") or (name in ("src", "href", "srcdoc", "action") and not own):
                self.found.append(f"{tag} {name}={value}")


def active(page: str) -> list[str]:
    """The elements and attributes of an HTML page that could run or load something; images in data URIs cannot."""
    parser = _Active()
    parser.feed(page)
    return parser.found
