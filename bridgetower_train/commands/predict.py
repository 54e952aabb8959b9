"""`bridgetower predict run_dir=... image=... "texts=['a dog', 'a <mask> on the grass']"`: one image and some texts."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.data.image import decode_square, preprocessing
from bridgetower_train.data.shards import MAX_IMAGE_BYTES, BadRecordError
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.attention import attention_over_image, words
from bridgetower_train.evaluation.base import ModelOptions, open_model
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import read_bytes
from bridgetower_train.pages.prediction import Prediction, TextPrediction, prediction_page
from bridgetower_train.tasks.pretraining.predictor import Predictor
from data_prep.source.image import prepare_jpeg


@dataclass(frozen=True)
class PredictConfig(ModelOptions):
    """`bridgetower predict`."""

    image: str = "???"
    """The image: JPEG, PNG, WebP, GIF or BMP; the model sees its centre, or with the run's `data.square=squash` all of it."""
    texts: list[str] = field(default_factory=list)
    """Texts to score for it; words are predicted for each `<mask>`."""
    words: list[str] = field(default_factory=list)
    """Words whose attention over the image is drawn; empty: all."""
    top: int = 5
    """Words to predict for each `<mask>`."""
    out: str = "prediction.html"
    """Where the page is written."""

    def __post_init__(self) -> None:
        at_least("top", self.top, 1)


def run(config: PredictConfig) -> int:
    """Print the scores of each text for the image, and write a page of them."""
    if not config.texts or not all(text.strip() for text in config.texts):
        raise ConfigError(f"texts={config.texts}: give at least one, and none empty: \"texts=['a dog', 'a <mask>']\"")
    model, saved = open_model(config.run_dir, config.step, config.device, config.tokenizer)
    predictor = Predictor(*model)
    pixels = read_image(config.image, saved.config)
    texts = [predict(predictor, pixels, text, config.top, config.words) for text in config.texts]
    facts = {
        "model": f"{saved.source}, {saved.name}" if saved.run_dir else saved.source,
        "image": config.image,
        "seen as": preprocessing(saved.config.model.image_size, saved.config.data.square),
    }
    for text in texts:
        print(text.text)
        known = {"similarity": text.similarity, "match": text.match}
        print("  " + "   ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None))
        for guesses in text.masks:
            print_line("  <mask>: " + ", ".join(f"{word} {p:.3f}" for word, p in guesses))
    page = prediction_page(Prediction(Path(config.image).name, pixels.numpy(), facts, texts))
    atomic_write(Path(config.out), page)
    print_line(f"prediction: {Path(config.out).resolve()}")
    return 0


def read_image(path: str, config: TrainConfig) -> Tensor:
    """uint8 (3, S, S) as the model sees it, prepared as a corpus prepares its images; ConfigError where it cannot be read."""
    size = config.model.image_size
    out = np.empty((size, size, 3), dtype=np.uint8)
    try:
        decode_square(prepare_jpeg(read_bytes(path, MAX_IMAGE_BYTES), size), size, config.data.square, out)
    except OSError as error:
        raise ConfigError(f"image={path}: {error.strerror}") from None
    except BadRecordError as error:
        raise ConfigError(f"image={path}: {error.reason}") from None
    return torch.from_numpy(out).permute(2, 0, 1)


def predict(predictor: Predictor, pixels_3SS: Tensor, text: str, top: int, chosen: list[str]) -> TextPrediction:
    """What the model says of an image and a text, as far as it has heads for it."""
    tokens, image = predictor.text, pixels_3SS[None]
    (ids,), (mask,) = tokens.encode([text], predictor.model.config.max_text_len)
    weights = attention_over_image(predictor, pixels_3SS, ids, mask)
    found = [(word, weights[group].mean(0).numpy()) for word, group in words(tokens, ids, mask)]
    return TextPrediction(
        text,
        float(predictor.embed_images(image)[0] @ predictor.embed_texts([text])[0]) if predictor.embeds else None,
        float(predictor.match(image, [text])) if predictor.matches else None,
        _guesses(predictor, image, ids, mask, top) if predictor.fills else [],
        [(word, map_GG) for word, map_GG in found if not chosen or word in chosen],
    )


def _guesses(
    predictor: Predictor, image_13SS: Tensor, ids_L: Tensor, mask_L: Tensor, top: int
) -> list[list[tuple[str, float]]]:
    """The best words for each `<mask>`."""
    places = torch.nonzero(ids_L == predictor.text.mask)[:, 0]
    if not len(places):
        return []
    probabilities = predictor.fill_all(image_13SS, ids_L[None], mask_L[None], places[None])[0].softmax(-1)
    best = (row.topk(min(top, len(row))) for row in probabilities)
    return [[(predictor.text.decode([i]), float(p)) for p, i in zip(*row, strict=True)] for row in best]
