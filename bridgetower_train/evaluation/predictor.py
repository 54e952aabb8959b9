"""A trained model as a function of pictures and texts.

Shapes: B pairs, S image edge, L text tokens, E width of the embeddings, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bridgetower_train.data.text import Text
from bridgetower_train.devices import Device
from bridgetower_train.model.bridgetower import Fused, Pairs
from bridgetower_train.objectives.itc import embed_image, embed_text
from bridgetower_train.objectives.joint import JointTask


class Predictor:
    """Answers in evaluation mode, without gradients, at the device's precision; results are float32 on the host."""

    def __init__(self, task: JointTask, text: Text, device: Device) -> None:
        self.task, self.model, self.text, self.device = task, task.model, text, device

    def embed_images(self, pixels_B3SS: Tensor) -> Tensor:
        """Contrastive embeddings (B, E) of pictures, of length 1."""
        with evaluating(self.task, self.device):
            states = self.model.encode_image(self._to_device(pixels_B3SS))
            return embed_image(self.model, states, self.task.objective.itc_form).float().cpu()

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Contrastive embeddings (B, E) of texts, of length 1."""
        with evaluating(self.task, self.device):
            states = self.model.encode_text(*self.encode(texts))
            return embed_text(self.model, states.cls).float().cpu()

    def match(self, pixels_B3SS: Tensor, texts: list[str]) -> Tensor:
        """Probability (B,) that each text describes its picture."""
        with evaluating(self.task, self.device):
            logits_B2: Tensor = self.model.itm_score(self._fuse(pixels_B3SS, *self.encode(texts), None).pooled)
            return logits_B2.float().softmax(-1)[:, 1].cpu()

    def fill(self, pixels_B3SS: Tensor, ids_BL: Tensor, mask_BL: Tensor, position_B: Tensor) -> Tensor:
        """Logits (B, V) of the token under the mask at `position_B` of each text."""
        with evaluating(self.task, self.device):
            ids, mask, position = (self._to_device(t) for t in (ids_BL, mask_BL, position_B[:, None]))
            logits_B1V: Tensor = self.model.mlm_score(self._fuse(pixels_B3SS, ids, mask, position).text)
            return logits_B1V[:, 0].float().cpu()

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L) of texts, on the device."""
        ids, mask = self.text.encode(texts, self.model.config.max_text_len)
        return self._to_device(ids), self._to_device(mask)

    def _fuse(self, pixels_B3SS: Tensor, ids_BL: Tensor, mask_BL: Tensor, position_B1: Tensor | None) -> Fused:
        """Each picture with its text: pooled, or read at `position_B1`."""
        rows = torch.arange(len(ids_BL), device=ids_BL.device)
        image = self.model.encode_image(self._to_device(pixels_B3SS))
        text = self.model.encode_text(ids_BL, mask_BL)
        return self.model.fuse(image, text, Pairs(rows, rows, 0 if position_B1 is not None else len(rows), position_B1))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device.torch_device)


@contextmanager
def evaluating(task: JointTask, device: Device) -> Iterator[None]:
    """Evaluation mode without gradients, under autocast; the former mode comes back at the end."""
    training = task.training
    task.eval()
    try:
        with torch.no_grad(), device.autocast():
            yield
    finally:
        task.train(training)
