"""A trained model as a function of images and texts.

Shapes: B pairs, S image edge, L text tokens, M places in a text, D width, E width of the embeddings, V vocabulary.
"""

import torch
from torch import Tensor

from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.errors import ConfigError
from bridgetower_train.model.bridgetower import Fused, ImageStates, Pairs, TextStates
from bridgetower_train.tasks.base import Said, Task, evaluating
from bridgetower_train.tasks.pretraining.itc import clamped_logit_scale, embed_image, embed_text
from bridgetower_train.tasks.pretraining.task import Pretraining


class Predictor:
    """Answers in evaluation mode, without gradients, at the device's precision; results are float32 on the host."""

    def __init__(self, task: Task, text: CaptionTokenizer, device: Device) -> None:
        """ConfigError where `task` is not pretraining."""
        if not isinstance(task, Pretraining):
            raise ConfigError(
                f"task={task.config.task}: only models of task=pretraining answer this; give one of those"
            )
        self.task, self.model, self.text, self.device = task, task.model, text, device
        objective = task.objective
        self.embeds, self.matches, self.fills = objective.itc > 0, objective.itm > 0, objective.mlm > 0
        """Whether the model has the heads for embeddings, for `match` and for `fill`."""

    def embed_images(self, pixels_B3SS: Tensor) -> Tensor:
        """Contrastive embeddings (B, E) of images, of length 1."""
        with evaluating(self.task, self.device):
            states = self.model.encode_image(self._to_device(pixels_B3SS))
            return embed_image(self.model, states, self.task.objective.itc_form).float().cpu()

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Contrastive embeddings (B, E) of texts, of length 1."""
        with evaluating(self.task, self.device):
            states = self.model.encode_text(*self.encode(texts))
            return embed_text(self.model, states.cls).float().cpu()

    def match(self, pixels_B3SS: Tensor, texts: list[str]) -> Tensor:
        """Probability (B,) that each text describes its image."""
        with evaluating(self.task, self.device):
            logits_B2: Tensor = self.model.head("itm_score")(self._fuse(pixels_B3SS, *self.encode(texts), None).pooled)
            return logits_B2.float().softmax(-1)[:, 1].cpu()

    def fill(self, pixels_B3SS: Tensor, ids_BL: Tensor, mask_BL: Tensor, position_B: Tensor) -> Tensor:
        """Logits (B, V) of the token under the mask at `position_B` of each text."""
        return self.fill_all(pixels_B3SS, ids_BL, mask_BL, position_B[:, None])[:, 0]

    def fill_all(self, pixels_B3SS: Tensor, ids_BL: Tensor, mask_BL: Tensor, positions_BM: Tensor) -> Tensor:
        """Logits (B, M, V) of the tokens at `positions_BM` of each text."""
        with evaluating(self.task, self.device):
            logits_BMV: Tensor = self.model.head("mlm_score")(self.read(pixels_B3SS, ids_BL, mask_BL, positions_BM))
            return logits_BMV.float().cpu()

    def say(self, pixels_13SS: Tensor, text: str, top: int) -> Said:
        """What the heads that are there say of an image and a text, with the `top` best words for each `<mask>`."""
        scores, logit = {}, None
        if self.embeds:
            scores["similarity"] = float(self.embed_images(pixels_13SS)[0] @ self.embed_texts([text])[0])
            logit = scores["similarity"] * float(clamped_logit_scale(self.model.head("logit_scale").detach()))
        if self.matches:
            scores["match"] = float(self.match(pixels_13SS, [text]))
        return Said(scores, self.guesses(pixels_13SS, text, top) if self.fills else [], [], logit)

    def guesses(self, pixels_13SS: Tensor, text: str, top: int) -> list[list[tuple[str, float]]]:
        """The `top` likeliest tokens for each `<mask>`, with their probabilities."""
        (ids_L,), (mask_L,) = self.text.encode([text], self.model.config.max_text_len)
        places = torch.nonzero(ids_L == self.text.mask)[:, 0]
        if not len(places):
            return []
        probabilities = self.fill_all(pixels_13SS, ids_L[None], mask_L[None], places[None])[0].softmax(-1)
        best = (row.topk(min(top, len(row))) for row in probabilities)
        return [[(self.text.decode([i]), float(p)) for p, i in zip(*row, strict=True)] for row in best]

    def read(self, pixels_B3SS: Tensor, ids_BL: Tensor, mask_BL: Tensor, positions_BM: Tensor) -> Tensor:
        """The text stream (B, M, D) at `positions_BM` after the last fusion layer, on the device."""
        with evaluating(self.task, self.device):
            ids, mask, positions = (self._to_device(t) for t in (ids_BL, mask_BL, positions_BM))
            return self._fuse(pixels_B3SS, ids, mask, positions).text

    def image_states(self, pixels_B3SS: Tensor) -> ImageStates:
        """The states of images, on the device, for `match_states`."""
        with evaluating(self.task, self.device):
            return self.model.encode_image(self._to_device(pixels_B3SS))

    def text_states(self, texts: list[str]) -> TextStates:
        """The states of texts, on the device, for `match_states`."""
        with evaluating(self.task, self.device):
            return self.model.encode_text(*self.encode(texts))

    def match_states(self, image: ImageStates, text: TextStates, image_rows_P: Tensor, text_rows_P: Tensor) -> Tensor:
        """The logits (P, 2) of a mismatch and of a match of pairs of rows of states."""
        (images, image_rows), (texts, text_rows) = (
            (self._to_device(t) for t in rows.unique(return_inverse=True)) for rows in (image_rows_P, text_rows_P)
        )
        with evaluating(self.task, self.device):
            pairs = Pairs(image_rows, text_rows, len(image_rows))
            fused = self.model.fuse(image.take(images), text.take(texts), pairs)
            logits_P2: Tensor = self.model.head("itm_score")(fused.pooled)
            return logits_P2.float().cpu()

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L) of texts, on the device."""
        ids, mask = self.text.encode(texts, self.model.config.max_text_len)
        return self._to_device(ids), self._to_device(mask)

    def _fuse(self, pixels_B3SS: Tensor, ids_BL: Tensor, mask_BL: Tensor, positions_BM: Tensor | None) -> Fused:
        """Each image with its text: pooled, or read at `positions_BM`."""
        rows = torch.arange(len(ids_BL), device=ids_BL.device)
        image = self.model.encode_image(self._to_device(pixels_B3SS))
        text = self.model.encode_text(ids_BL, mask_BL)
        pooled = len(rows) if positions_BM is None else 0
        return self.model.fuse(image, text, Pairs(rows, rows, pooled, positions_BM))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device.torch_device)
