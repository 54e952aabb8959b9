"""The scores of one image and some texts by a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.html import Child, Markup, bar, element, figures, join, note, page, pairs
from bridgetower_train.pages.images import png, scale_css, spotlight
from bridgetower_train.tasks.base import Said


@dataclass(frozen=True)
class TextPrediction:
    """The scores of the image and one text."""

    text: str
    said: Said
    attention: Sequence[tuple[str, npt.NDArray[np.float32]]]
    """Word -> (I, G, G), its attention to each patch of each image."""


@dataclass(frozen=True)
class Prediction:
    """An image and its texts."""

    name: str
    images: Sequence[npt.NDArray[np.uint8]]
    """uint8 (3, S, S): each image as the model sees it."""
    facts: dict[str, str]
    texts: Sequence[TextPrediction]


def prediction_page(prediction: Prediction) -> str:
    """The page: the image, the texts by how well they fit, then a section for each."""
    images = [element("img", src=png(image), alt=prediction.name) for image in prediction.images]
    head = element(
        "header",
        element("p", "Model output for", class_="kicker"),
        element("h1", prediction.name),
        element("div", *images, element("div", pairs(prediction.facts)), class_="predicted"),
    )
    shares = softmax(prediction.texts)
    order = sorted(range(len(shares)), key=lambda n: -shares[n]) or range(len(prediction.texts))
    texts = [prediction.texts[n] for n in order]
    ranked = _ranked([(prediction.texts[n].text, shares[n]) for n in order]) if shares else ""
    return page(f"Prediction: {prediction.name}", head, ranked, *(_text(prediction, text) for text in texts))


def softmax(texts: Sequence[TextPrediction]) -> list[float]:
    """How the contrast divides the image among several texts; empty for a single one, or if the model has no contrast."""
    logits = [text.said.logit for text in texts if text.said.logit is not None]
    if len(logits) < max(2, len(texts)):
        return []
    weights = np.exp(np.array(logits) - max(logits))
    shares: list[float] = (weights / weights.sum()).tolist()
    return shares


def _ranked(shares: Sequence[tuple[str, float]]) -> Markup:
    """A bar for each text."""
    items = [bar(text, share, f"{100 * share:.1f}%") for text, share in shares]
    how_to_read = (
        "Softmax of the similarities, at the temperature of the training, over these texts alone: it says which of them fits "
        "best, not whether any does."
    )
    return element(
        "section", element("h2", "Which text fits"), note(how_to_read), element("ol", *items, class_="shares ranked")
    )


def _text(prediction: Prediction, text: TextPrediction) -> Markup:
    shown = {"match": "probability of a match", "similarity": "similarity, a cosine"}
    scores = figures({shown.get(name, name): f"{value:.3f}" for name, value in text.said.scores.items()})
    parts: list[Child] = [element("h2", text.text), scores]
    for number, guesses in enumerate(text.said.masks):
        which = f" number {number + 1}" if len(text.said.masks) > 1 else ""
        parts += [element("p", f"Under <mask>{which}, probability", class_="kicker"), _listed(guesses)]
    if text.said.labels:
        parts += [element("p", "Likeliest, probability", class_="kicker"), _listed(text.said.labels)]
    return element("section", *parts, _attention(prediction, text) if text.attention else "")


def _attention(prediction: Prediction, text: TextPrediction) -> Markup:
    """The maps of all words, on one scale."""
    most = max(float(weights.max()) for _, weights in text.attention)
    drawn = [
        _word(image, word, weights, most)
        for word, of_images in text.attention
        for image, weights in zip(prediction.images, of_images, strict=True)
    ]
    how_to_read = (
        "Share of a word's attention in the last fusion layer that each patch of the image gets. The percentage below is what "
        "the whole image gets; the rest is on the class token."
    )
    colours = element("span", class_="bar", style=f"background:{scale_css()}")
    scale = element("p", "0%", colours, f"{100 * most:.2g}% for a patch", class_="scale")
    title = element("p", "Where each word looks", class_="kicker")
    return join(title, note(how_to_read), scale, element("div", *drawn, class_="words"))


def _listed(found: Sequence[tuple[str, float]]) -> Markup:
    return element("dl", *((element("dt", name), element("dd", f"{p:.3f}")) for name, p in found), class_="pairs")


def _word(pixels: npt.NDArray[np.uint8], word: str, weights: npt.NDArray[np.float32], most: float) -> Markup:
    share = element("span", f"{weights.sum():.0%}", class_="score")
    image = element("img", src=spotlight(pixels, weights, most=most), alt=f"attention of {word}")
    return element("figure", image, element("figcaption", word, " ", share))
