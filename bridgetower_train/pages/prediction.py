"""The scores of one image and some texts by a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.html import Child, Markup, element, figures, note, page, pairs
from bridgetower_train.pages.images import png, spotlight
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
    """The page: the image, then a section for each text."""
    images = [element("img", src=png(image), alt=prediction.name) for image in prediction.images]
    head = element(
        "header",
        element("p", "Model output for", class_="kicker"),
        element("h1", prediction.name),
        element("div", *images, element("div", pairs(prediction.facts)), class_="predicted"),
    )
    return page(f"Prediction: {prediction.name}", head, *(_text(prediction, text) for text in prediction.texts))


def _text(prediction: Prediction, text: TextPrediction) -> Markup:
    shown = {"match": "probability of a match"}
    scores = figures({shown.get(name, name): f"{value:.3f}" for name, value in text.said.scores.items()})
    parts: list[Child] = [element("h2", text.text), scores]
    for number, guesses in enumerate(text.said.masks):
        which = f" number {number + 1}" if len(text.said.masks) > 1 else ""
        parts += [element("p", f"Under <mask>{which}", class_="kicker"), _listed(guesses)]
    if text.said.labels:
        parts += [element("p", "Likeliest", class_="kicker"), _listed(text.said.labels)]
    if text.attention:
        how_to_read = (
            "Brightest where the attention of the last fusion layer is highest, separately for each image. The percentage is "
            "the share of attention on the image; the rest is on the class token."
        )
        parts += [element("p", "Where each word looks", class_="kicker"), note(how_to_read)]
        drawn = [
            _word(image, word, weights)
            for word, of_images in text.attention
            for image, weights in zip(prediction.images, of_images, strict=True)
        ]
        parts.append(element("div", *drawn, class_="words"))
    return element("section", *parts)


def _listed(found: Sequence[tuple[str, float]]) -> Markup:
    return element("dl", *((element("dt", name), element("dd", f"{p:.3f}")) for name, p in found), class_="pairs")


def _word(pixels: npt.NDArray[np.uint8], word: str, weights: npt.NDArray[np.float32]) -> Markup:
    share = element("span", f"{weights.sum():.0%}", class_="score")
    image = element("img", src=spotlight(pixels, weights), alt=f"attention of {word}")
    return element("figure", image, element("figcaption", word, " ", share))
