"""What a search has found, as a page; with a form, the page that answers the next search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.html import Child, Markup, element, join, note, page, pairs
from bridgetower_train.pages.images import png, spotlight

MAX_TEXT = 2000
"""Characters of a query; more than the longest text of any model takes."""


@dataclass(frozen=True)
class Hit:
    """An image or a text that was found."""

    key: str
    similarity: float
    """Cosine."""
    match: float | None
    """The probability of a match, if that was computed."""
    image: str | None
    """A data URI; None for a text."""
    fault: str
    """Why the image is not shown."""
    drawn: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]] | None
    """uint8 (3, S, S) of an image and float32 (G, G) of attention to its patches."""


@dataclass(frozen=True)
class SearchView:
    """What the page shows."""

    text: str
    """The query, or empty for an image."""
    name: str
    """Of the image that is the query."""
    image: npt.NDArray[np.uint8] | None
    """uint8 (3, S, S): it as the model sees it."""
    facts: dict[str, str]
    hits: Sequence[Hit]
    calibration: str = ""
    """How far probabilities can be trusted, if any is shown."""
    of_images: bool = True


def search_page(view: SearchView, form: Child = "") -> str:
    """The page: the query, then what was found, the best first."""
    title = view.text or view.name
    about = element("div", pairs(view.facts | ({"calibration of match": view.calibration} if view.calibration else {})))
    if view.image is not None:
        about = element("div", element("img", src=png(view.image), alt=view.name), about, class_="predicted")
    head = element(
        "header",
        element("p", "Search for", class_="kicker"),
        element("h1", title),
        form,
        about,
        _how_to_read(view),
    )
    hits = [_hit(place, hit) for place, hit in enumerate(view.hits, 1)]
    return page(f"Search: {title}", head, element("div", *hits, class_="hits" if view.of_images else "hits wide"))


def start_page(facts: dict[str, str], form: Child, fault: str = "") -> str:
    """The page before the first search, or after one that failed."""
    return page(
        "Search",
        element(
            "header",
            element("p", "BridgeTower", class_="kicker"),
            element("h1", "Search"),
            element("p", fault, class_="fault") if fault else "",
            form,
            element("div", pairs(facts)),
        ),
    )


def search_form(of_images: bool, text: str = "") -> Markup:
    """A field for a text, and one for an image."""
    field = element(
        "input", name="text", type="search", value=text, aria_label="text", maxlength=str(MAX_TEXT), autofocus=""
    )
    by_text = element("form", field, element("button", "Search"), method="get", action="/")
    file = element("input", name="image", type="file", accept="image/*", required="", aria_label="image")
    by_image = element(
        "form", file, element("button", "Search by image"), method="post", action="/", enctype="multipart/form-data"
    )
    return element("div", *((by_text, by_image) if of_images else (by_image, by_text)), class_="search")


def _how_to_read(view: SearchView) -> Markup:
    said = ["Similarity is the cosine of two embeddings, from -1 to 1."]
    if any(hit.match is not None for hit in view.hits):
        said.append("Match is the probability that image and text belong together; what has one is ranked by it.")
    if any(hit.drawn for hit in view.hits):
        said.append(
            "The coloured image shows where the words of the text look: their mean attention, from none (blue) to its highest "
            "value in this image (yellow)."
        )
    return note(" ".join(said))


def _hit(place: int, hit: Hit) -> Markup:
    match = "" if hit.match is None else f" · match {hit.match:.3f}"
    score = element("span", f"{place}. similarity {hit.similarity:.3f}{match}", class_="score")
    attention = ""
    if hit.drawn is not None:
        pixels, weights = hit.drawn
        attention = element("img", src=spotlight(pixels, weights), alt=f"attention, {hit.key}")
    shown = element("img", src=hit.image, alt=hit.key) if hit.image else ""
    missing = element("div", f"not shown: {hit.fault}", class_="missing") if hit.fault else ""
    return element(
        "figure",
        element("div", join(shown, missing, attention), class_="couple"),
        element("figcaption", hit.key, score),
    )
