"""Corpora in figures, histograms and samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bridgetower_train.pages.histogram import Distribution, histogram
from bridgetower_train.pages.html import Child, Markup, bar, element, figures, join, matrix, note, page, sections


@dataclass(frozen=True)
class Sample:
    """An image to show."""

    image: str
    """As a data URI."""
    key: str
    caption: str


@dataclass(frozen=True)
class CorpusView:
    """What the page shows of one corpus."""

    name: str
    title: str
    """Title of its source; its name if that is unknown."""
    facts: dict[str, str]
    """Figures above all."""
    remarks: Sequence[str] = ()
    """Sentences under them."""
    states: dict[str, int] = field(default_factory=dict)
    """Outcome -> rows of the source, including `ok`; empty if the corpus has no record of them."""
    distributions: Sequence[Distribution] = ()
    samples: Sequence[Sample] = ()


def corpora_page(title: str, facts: dict[str, str], corpora: Sequence[CorpusView]) -> str:
    """The page: figures of all corpora together, then of each."""
    columns = ("corpus", "images", "captions", "size", "yield")
    rows = [[view.name, *(view.facts.get(column, "unknown") for column in columns[1:])] for view in corpora]
    header = element(
        "header",
        element("p", "BridgeTower corpora", class_="kicker"),
        element("h1", title),
        figures(facts),
        matrix(columns, rows),
    )
    parts: dict[str, Child] = {view.name: _corpus(view) for view in corpora}
    return page(f"{title} · BridgeTower", header, sections(parts))


def _corpus(view: CorpusView) -> Markup:
    charts = [drawn for drawn in map(histogram, view.distributions) if drawn]
    parts = [
        note(view.title) if view.title != view.name else Markup(""),
        figures(view.facts),
        element("ul", *(element("li", remark) for remark in view.remarks), class_="remarks") if view.remarks else "",
        element("div", *charts, class_="charts") if charts else "",
        join(element("h3", "Outcomes of the rows of the source"), _shares(view.states)) if view.states else "",
        join(element("h3", "Samples"), _sheet(view.samples)) if view.samples else "",
    ]
    return element("div", *parts, class_="corpus")


def _shares(states: dict[str, int]) -> Markup:
    """A bar for each state, the most frequent first."""
    total = sum(states.values())
    items = [
        bar(state, count / total, f"{count:,} ({100 * count / total:.3g}%)", "ok" if state == "ok" else None)
        for state, count in sorted(states.items(), key=lambda item: -item[1])
    ]
    return element("ul", *items, class_="shares")


def _sheet(samples: Sequence[Sample]) -> Markup:
    images = [
        element("figure", element("img", src=s.image, alt=s.key, title=s.key), element("figcaption", s.caption))
        for s in samples
    ]
    return element("div", *images, class_="sheet")
