"""A trained model as one object: `bridgetower_train.load`.

Shapes: N images, T texts, E width of the embeddings, S image edge.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.shards import BadRecordError
from bridgetower_train.display import shortened
from bridgetower_train.errors import ConfigError, DataError, UserError
from bridgetower_train.evaluation.base import OpenModel, open_model
from bridgetower_train.evaluation.matching import calibration
from bridgetower_train.evaluation.rerank import pair_logits
from bridgetower_train.tasks.base import Said
from bridgetower_train.tasks.pretraining.predictor import Predictor
from bridgetower_train.use.images import ImageLike, as_seen, listed
from bridgetower_train.weights.saved import SavedModel

ImageLikes = ImageLike | Sequence[ImageLike]
"""One image or several; several of equal size may be a uint8 tensor (N, 3, H, W)."""


def load(
    source: str | os.PathLike[str], device: str = "auto", step: str | int = "newest", tokenizer: str | None = None
) -> "Model":
    """The model at `source`: a run folder, a folder that `bridgetower export` wrote, or a name on the Hugging Face hub.

    `device`: `auto`, `cpu`, `cuda` or `hpu`. `step`: which checkpoint of a run, `newest`, `best` or a number of steps.
    `tokenizer`: where the tokenizer is now, if not where the run had it. ConfigError where there is no such model, step,
    tokenizer or device; UserError where no checkpoint is complete.
    """
    return Model(*open_model(os.fspath(source), str(step), device, tokenizer))


class Model:
    """What a trained model says of images and texts.

    An image is a path, encoded bytes, one of Pillow's, a uint8 tensor (3, H, W) or a record of a corpus. Results are float32 on
    the host, whatever the device. ConfigError where the model lacks the heads for an answer, DataError where an image cannot be
    used.
    """

    def __init__(self, opened: OpenModel, saved: SavedModel) -> None:
        self.opened, self.saved = opened, saved

    def __repr__(self) -> str:
        return f"Model({self.saved.source!r}, {self.saved.name!r}, {self.opened.device.name!r})"

    @property
    def config(self) -> TrainConfig:
        """Of the run that trained it, as far as known."""
        return self.saved.config

    def embed_images(self, images: ImageLikes, batch: int = 64) -> Tensor:
        """(N, E): contrastive embeddings, each of length 1; `batch` images are computed at once.

        They are the image tower's, and compared with those of texts by their dot product. Where the contrast was trained with
        a third, cross-modal embedding (`objective.itc_form` other than `ms`), that one belongs to pairs and is not used.
        """
        predictor = self.embedder
        parts = [predictor.embed_images(pixels) for pixels in self._pixels(listed(images), batch)]
        return torch.cat(parts) if parts else torch.empty(0, self.config.objective.itc_dim)

    def embed_texts(self, texts: str | Sequence[str], batch: int = 256) -> Tensor:
        """(T, E): contrastive embeddings of the text tower, each of length 1. A text that is too long loses its end."""
        predictor, texts = self.embedder, _texts(texts)
        parts = [predictor.embed_texts(list(texts[i : i + batch])) for i in range(0, len(texts), batch)]
        return torch.cat(parts) if parts else torch.empty(0, self.config.objective.itc_dim)

    def similarity(self, images: ImageLikes, texts: str | Sequence[str]) -> Tensor:
        """(N, T): the cosine of each image's embedding and each text's."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    def match(self, images: ImageLikes, texts: str | Sequence[str], batch: int = 64) -> Tensor:
        """(N, T): the probability that each text describes each image, by image-text matching; `batch` pairs are fused at once.

        `calibration` says how far such a probability can be trusted.
        """
        predictor, (images, texts) = self.matcher, (listed(images), _texts(texts))
        pairs = Pairs(len(images), list(texts), lambda part: self.pixels(images[part]))
        logits = pair_logits(predictor, pairs, np.arange(len(images) * len(texts)), batch=batch)
        return torch.from_numpy(logits).softmax(-1)[:, 1].reshape(len(images), len(texts))

    @property
    def calibration(self) -> str:
        """How far the probabilities of `match` can be trusted, in words, or the command that measures it."""
        return calibration(self.saved)

    def fill_mask(self, image: ImageLike, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each `<mask>` in `text` the `top` likeliest tokens and their probabilities, the best first."""
        predictor = self._predictor
        self._need(predictor.fills, "mlm")
        return predictor.guesses(self.pixels([image]), text, top)

    def predict(self, images: ImageLikes, text: str = "", top: int = 5) -> Said:
        """What the model was trained to say of a text about an image, or a pair of images, with the `top` likeliest of each:

        `scores` and `masks` of pretraining, `labels` (answers, classes) of the other tasks.
        """
        given, task = listed(images), self.opened.task
        wanted = task.work(self.config).images
        if len(given) != wanted:
            raise ConfigError(f"images: the model judges {wanted} at once, and there are {len(given)}")
        if task.needs_text and not text.strip():
            raise ConfigError("text: must not be empty; the model answers for a text about an image")
        return task.say(self.pixels(given), text, self.opened.tokenizer, self.opened.device, top)

    def pixels(self, images: Sequence[ImageLike]) -> Tensor:
        """uint8 (N, 3, S, S): images as the model sees them."""
        seen = []
        for number, image in enumerate(images):
            try:
                seen.append(as_seen(image, self.config))
            except (BadRecordError, OSError) as error:
                name = str(image) if isinstance(image, str | os.PathLike) else f"image {number}"
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise DataError(f"{shortened(name)}: {reason}; give another image") from None
        size = self.config.model.image_size
        return torch.stack(seen) if seen else torch.empty(0, 3, size, size, dtype=torch.uint8)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that answers depend on: weights, tokenizer, form of the contrast, how images are seen.

        A run and its export have the same. The temperature is left out: only losses use it.
        """
        model, form = self.config.model, self.config.objective.itc_form
        seen = [model.image_size, self.config.data.square, model.max_text_len, model.layer_norm_eps]
        digest = hashlib.sha256(json.dumps([form, seen, self.opened.tokenizer.digest]).encode())
        for name, tensor in sorted(self.opened.task.model.state_dict().items()):
            if name != "logit_scale":
                digest.update(name.encode())
                digest.update(tensor.contiguous().cpu().numpy().data)
        return digest.hexdigest()

    @cached_property
    def embedder(self) -> Predictor:
        """What computes embeddings; ConfigError where the model has no heads for them."""
        self._need(self._predictor.embeds, "itc")
        return self._predictor

    @cached_property
    def matcher(self) -> Predictor:
        """What matches images and texts; ConfigError where the model has no head for that."""
        self._need(self._predictor.matches, "itm")
        return self._predictor

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(*self.opened)

    def _need(self, there: bool, loss: str) -> None:
        if not there:
            raise ConfigError(
                f"{self.saved.named}: was trained without objective.{loss}, which this needs; give a model that has it"
            )

    def _pixels(self, images: Sequence[ImageLike], batch: int) -> Iterator[Tensor]:
        return (self.pixels(images[start : start + batch]) for start in range(0, len(images), batch))


@dataclass(frozen=True)
class Pairs:
    """Images and texts, as `pair_logits` reads them."""

    images: int
    texts: list[str]
    pixels: Callable[[slice], Tensor]
    """uint8 (B, 3, S, S) of some of the images."""

    def __len__(self) -> int:
        return self.images

    def read(self, part: slice) -> tuple[Tensor, dict[int, str]]:
        return self.pixels(part), {}


def _texts(texts: str | Sequence[str]) -> Sequence[str]:
    found = [texts] if isinstance(texts, str) else texts
    if not all(isinstance(text, str) for text in found):
        raise UserError("texts: must be a string, or a list of strings")
    return found
