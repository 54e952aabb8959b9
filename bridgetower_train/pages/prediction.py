"""The scores of one image and some texts by a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.html import Child, Markup, element, figures, note, page, pairs
from bridgetower_train.pages.images import png, spotlight


@dataclass(frozen=True)
class TextPrediction:
    """The scores of the image and one text."""

    text: str
    similarity: float | None
    """Cosine of the contrastive embeddings; None if the model has none."""
    match: float | None
    """Probability that the text describes the image; None if the model has no such head."""
    masks: Sequence[Sequence[tuple[str, float]]]
    """For each `<mask>` the most probable words and their probabilities, the best first."""
    attention: Sequence[tuple[str, npt.NDArray[np.float32]]]
    """Word -> (G, G), its attention to each patch."""


@dataclass(frozen=True)
class Prediction:
    """An image and its texts."""

    name: str
    pixels: npt.NDArray[np.uint8]
    """uint8 (3, S, S): the image as the model sees it."""
    facts: dict[str, str]
    texts: Sequence[TextPrediction]


def prediction_page(prediction: Prediction) -> str:
    """The page: the image, then a section for each text."""
    image = element("img", src=png(prediction.pixels), alt=prediction.name)
    head = element(
        "header",
        element("p", "Model output for", class_="kicker"),
        element("h1", prediction.name),
        element("div", image, element("div", pairs(prediction.facts)), class_="predicted"),
    )
    return page(f"Prediction: {prediction.name}", head, *(_text(prediction, text) for text in prediction.texts))


def _text(prediction: Prediction, text: TextPrediction) -> Markup:
    known = {"similarity": text.similarity, "probability of a match": text.match}
    scores = figures({name: f"{value:.3f}" for name, value in known.items() if value is not None})
    parts: list[Child] = [element("h2", text.text), scores]
    for number, guesses in enumerate(text.masks):
        which = f" number {number + 1}" if len(text.masks) > 1 else ""
        listed = ((element("dt", word), element("dd", f"{p:.3f}")) for word, p in guesses)
        parts += [element("p", f"Under <mask>{which}", class_="kicker"), element("dl", *listed, class_="pairs")]
    if text.attention:
        how_to_read = (
            "Brightest where the attention of the last fusion layer is highest, separately for each image. The percentage is "
            "the share of attention on the image; the rest is on the class token."
        )
        parts += [element("p", "Where each word looks", class_="kicker"), note(how_to_read)]
        parts.append(element("div", *(_word(prediction, *pair) for pair in text.attention), class_="words"))
    return element("section", *parts)


def _word(prediction: Prediction, word: str, weights: npt.NDArray[np.float32]) -> Markup:
    share = element("span", f"{weights.sum():.0%}", class_="score")
    image = element("img", src=spotlight(prediction.pixels, weights), alt=f"attention of {word}")
    return element("figure", image, element("figcaption", word, " ", share))
