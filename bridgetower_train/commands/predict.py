"""`bridgetower predict run_dir=... image=... "texts=['a dog', 'a <mask> on the grass']"`: one image and some texts."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.config import at_least
from bridgetower_train.data.image import decode_crop
from bridgetower_train.data.shards import BadRecordError
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.attention import attention_over_image, words
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.evaluation.trained import load_run
from bridgetower_train.files import atomic_write
from bridgetower_train.pages.prediction import Guess, Prediction, TextPrediction, prediction_page
from data_prep.source.image import prepare_jpeg


@dataclass(frozen=True)
class PredictConfig:
    """`bridgetower predict`."""

    run_dir: str = "???"
    """Folder of the run; its newest whole checkpoint answers."""
    image: str = "???"
    """The image: JPEG, PNG, WebP, GIF or BMP; its centre is read."""
    texts: list[str] = field(default_factory=list)
    """Texts to compare with it; the words under each `<mask>` are guessed."""
    words: list[str] = field(default_factory=list)
    """Words whose attention over the image is drawn; empty: all."""
    top: int = 5
    """Words to guess for each `<mask>`."""
    out: str = "prediction.html"
    """Where the page is written."""
    device: str = "auto"
    """As `device.name` of a run."""

    def __post_init__(self) -> None:
        at_least("top", self.top, 1)


def run(config: PredictConfig) -> int:
    """Print what the model makes of the image and each text, and write a page of it."""
    if not config.texts or not all(text.strip() for text in config.texts):
        raise ConfigError(f"texts={config.texts}: give at least one, and none empty: \"texts=['a dog', 'a <mask>']\"")
    trained = load_run(config.run_dir, config.device)
    pixels = read_image(config.image, trained.config.model.image_size)
    texts = [predict(trained.predictor, pixels, text, config.top, config.words) for text in config.texts]
    facts = {
        "model": f"{config.run_dir}, {trained.checkpoint.name}",
        "image": config.image,
        "seen as": f"{pixels.shape[-1]} x {pixels.shape[-1]} px",
    }
    for text in texts:
        print(text.text)
        known = {"similarity": text.similarity, "match": text.match}
        print("  " + "   ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None))
        for guesses in text.masks:
            print("  <mask>: " + ", ".join(f"{guess.word} {guess.probability:.3f}" for guess in guesses))
    page = prediction_page(Prediction(Path(config.image).name, pixels.numpy(), facts, texts))
    atomic_write(Path(config.out), page)
    print(f"prediction: {Path(config.out).resolve()}")
    return 0


def read_image(path: str, size: int) -> Tensor:
    """uint8 (3, size, size), prepared as a corpus prepares its images; ConfigError where there is none to be had."""
    out = np.empty((size, size, 3), dtype=np.uint8)
    try:
        decode_crop(prepare_jpeg(Path(path).read_bytes(), size), size, out)
    except OSError as error:
        raise ConfigError(f"image={path}: {error.strerror}") from None
    except BadRecordError as error:
        raise ConfigError(f"image={path}: {error.reason}") from None
    return torch.from_numpy(out).permute(2, 0, 1)


def predict(predictor: Predictor, pixels_3SS: Tensor, text: str, top: int, chosen: list[str]) -> TextPrediction:
    """What the model makes of an image and a text, as far as it was trained for it. ConfigError for a word that is not there."""
    objective, tokens = predictor.task.objective, predictor.text
    image = pixels_3SS[None]
    (ids,), (mask,) = tokens.encode([text], predictor.model.config.max_text_len)
    similarity = None
    if objective.itc:
        similarity = float(predictor.embed_images(image)[0] @ predictor.embed_texts([text])[0])
    places = torch.nonzero(ids == tokens.mask)[:, 0]
    masks = []
    if objective.mlm and len(places):
        probabilities = predictor.fill_all(image, ids[None], mask[None], places[None])[0].softmax(-1)
        masks = [
            [
                Guess(tokens.decode([i]), p)
                for p, i in zip(*(x.tolist() for x in row.topk(min(top, len(row)))), strict=True)
            ]
            for row in probabilities
        ]
    weights = attention_over_image(predictor, pixels_3SS, ids, mask)
    found = [(word, weights[group].mean(0).numpy()) for word, group in words(tokens, ids, mask)]
    return TextPrediction(
        text,
        similarity,
        float(predictor.match(image, [text])) if objective.itm else None,
        masks,
        [(word, map_GG) for word, map_GG in found if not chosen or word in chosen],
    )
