"""What a model makes of one picture and some texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bridgetower_train.pages.html import Child, Markup, element, figures, note, page, pairs, table
from bridgetower_train.pages.pictures import png, spotlight


@dataclass(frozen=True)
class Guess:
    """A word under `<mask>`."""

    word: str
    probability: float


@dataclass(frozen=True)
class TextPrediction:
    """What the model makes of the picture and one text."""

    text: str
    similarity: float | None
    """Cosine of the contrastive embeddings; None where the model has none."""
    match: float | None
    """Probability that the text describes the picture; None where the model has no such head."""
    masks: Sequence[Sequence[Guess]]
    """For each `<mask>` the best words, the best first."""
    attention: Sequence[tuple[str, npt.NDArray[np.float32]]]
    """Word -> (G, G), how much it attends to each patch."""


@dataclass(frozen=True)
class Prediction:
    """A picture and its texts."""

    name: str
    pixels: npt.NDArray[np.uint8]
    """uint8 (3, S, S): the picture as the model sees it."""
    facts: dict[str, str]
    texts: Sequence[TextPrediction]


def prediction_page(prediction: Prediction) -> str:
    """The page: the picture, then a part for each text."""
    picture = element("img", src=png(prediction.pixels), alt=prediction.name)
    head = element(
        "header",
        element("p", "What the model makes of", class_="kicker"),
        element("h1", prediction.name),
        element("div", picture, element("div", pairs(prediction.facts)), class_="predicted"),
    )
    return page(f"Prediction: {prediction.name}", head, *(_text(prediction, text) for text in prediction.texts))


def _text(prediction: Prediction, text: TextPrediction) -> Markup:
    known = {"similarity": text.similarity, "probability of a match": text.match}
    parts: list[Child] = [element("h2", text.text)]
    parts.append(figures({name: f"{value:.3f}" for name, value in known.items() if value is not None}))
    for number, guesses in enumerate(text.masks):
        parts.append(
            element("p", f"Under <mask>{f' number {number + 1}' if len(text.masks) > 1 else ''}", class_="kicker")
        )
        parts.append(table(["word", "probability"], [(g.word, f"{g.probability:.3f}") for g in guesses]))
    if text.attention:
        parts.append(element("p", "Where each word looks", class_="kicker"))
        parts.append(element("div", *(_word(prediction, *pair) for pair in text.attention), class_="words"))
        parts.append(note(f"Brightest where the attention of the last fusion layer is highest. Words of: {text.text}"))
    return element("section", *parts)


def _word(prediction: Prediction, word: str, weights: npt.NDArray[np.float32]) -> Markup:
    caption = f"{word} · {weights.sum():.0%} on the picture"
    image = element("img", src=spotlight(prediction.pixels, weights), alt=f"attention of {word}")
    return element("figure", image, element("figcaption", caption))
