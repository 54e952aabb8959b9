"""`bridgetower predict run_dir=... image=... "texts=['a dog', 'a <mask> on the grass']"`: one image and some texts."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.data.image import preprocessing
from bridgetower_train.data.shards import BadRecordError
from bridgetower_train.display import plural, print_line
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.attention import attention_over_images, words
from bridgetower_train.evaluation.base import ModelOptions, OpenModel, open_model
from bridgetower_train.evaluation.matching import calibration
from bridgetower_train.files import atomic_write
from bridgetower_train.pages.prediction import Prediction, TextPrediction, prediction_page, softmax
from bridgetower_train.use.images import as_seen


@dataclass(frozen=True)
class PredictConfig(ModelOptions):
    """`bridgetower predict`."""

    image: str = "???"
    """The image: JPEG, PNG, WebP, GIF or BMP; the model sees its centre, or with the run's `data.square=squash` all of it."""
    second: str | None = None
    """The second image, for a model of two (task=nlvr2)."""
    texts: list[str] = field(default_factory=list)
    """Texts to score for it; words are predicted for each `<mask>`. Of other tasks questions, hypotheses or sentences; of
    task=classes none where its corpus has none."""
    words: list[str] = field(default_factory=list)
    """Words whose attention over the image is drawn; empty: all."""
    top: int = 5
    """Words to predict for each `<mask>`; answers or classes to show."""
    out: str = "prediction.html"
    """Where the page is written."""

    def __post_init__(self) -> None:
        at_least("top", self.top, 1)


def run(config: PredictConfig) -> int:
    """Print what the model says of each text about the image, and write a page of it."""
    model, saved = open_model(config.run_dir, config.step, config.device, config.tokenizer)
    given = config.texts or ([] if model.task.needs_text else [""])
    if not given or (model.task.needs_text and not all(text.strip() for text in given)):
        raise ConfigError(f"texts={config.texts}: give at least one, and none empty: \"texts=['a dog', 'a <mask>']\"")
    paths = [config.image, *([config.second] if config.second else [])]
    if len(paths) != (wanted := model.task.work(saved.config).images):
        todo = "give the other one in second=" if wanted == 2 else "leave second out"
        raise ConfigError(f"image={config.image}: the model judges {plural(wanted, 'image')} at once; {todo}")
    pixels = torch.stack([read_image(path, saved.config) for path in paths])
    texts = [predict(model, pixels, text, config.top, config.words) for text in given]
    facts = {
        "model": f"{saved.source}, {saved.name}" if saved.run_dir else saved.source,
        "image": ", ".join(paths),
        "seen as": preprocessing(saved.config.model.image_size, saved.config.data.square),
    }
    if any("match" in text.said.scores for text in texts):
        facts["calibration of match"] = calibration(saved)
        print_line(f"calibration of match: {facts['calibration of match']}")
    for text, share in itertools.zip_longest(texts, softmax(texts)):
        print_line(text.text)
        scores = text.said.scores | ({} if share is None else {"softmax over the texts": share})
        if scores:
            print("  " + "   ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        for guesses in text.said.masks:
            print_line("  <mask>: " + ", ".join(f"{word} {p:.3f}" for word, p in guesses))
        if text.said.labels:
            print_line("  " + ", ".join(f"{name} {p:.3f}" for name, p in text.said.labels))
    page = prediction_page(Prediction(Path(config.image).name, list(pixels.numpy()), facts, texts))
    atomic_write(Path(config.out), page)
    print_line(f"prediction: {Path(config.out).resolve()}")
    return 0


def read_image(path: str, config: TrainConfig) -> Tensor:
    """uint8 (3, S, S) as the model sees it; ConfigError where it cannot be read."""
    try:
        return as_seen(path, config)
    except OSError as error:
        raise ConfigError(f"image={path}: {error.strerror}") from None
    except BadRecordError as error:
        raise ConfigError(f"image={path}: {error.reason}") from None


def predict(model: OpenModel, pixels_I3SS: Tensor, text: str, top: int, chosen: list[str]) -> TextPrediction:
    """What the model says of a text about images, as far as it has heads for it."""
    tokens = model.tokenizer
    (ids,), (mask,) = tokens.encode([text], model.config.model.max_text_len)
    weights = attention_over_images(model, pixels_I3SS, ids, mask)
    found = [(word, weights[:, group].mean(1).numpy()) for word, group in words(tokens, ids, mask)]
    said = model.task.say(pixels_I3SS, text, tokens, model.device, top)
    return TextPrediction(text, said, [(word, maps) for word, maps in found if not chosen or word in chosen])
