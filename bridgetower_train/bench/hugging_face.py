"""Hugging Face's three BridgeTower classes on our weights: the usual way to the three losses, which ours is measured by.

Each computes one loss, with a whole pass of its own.
"""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig, ObjectiveConfig
from bridgetower_train.data.batch import IGNORE, Batch
from bridgetower_train.errors import UserError
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.vision import normalize
from bridgetower_train.weights.hf_files import model_description


class HuggingFaceHeads(nn.Module):
    """BridgeTowerForMaskedLM, ...ForImageAndTextRetrieval and ...ForContrastiveLearning around one trunk.

    Their parameters are those of `model` themselves, not copies. UserError where `transformers` is not installed.
    """

    def __init__(self, model: BridgeTower, objective: ObjectiveConfig) -> None:
        super().__init__()
        hf = _transformers("modeling_bridgetower")
        config = hugging_face_config(model.config, objective.itc_dim)
        self.mlm = hf.BridgeTowerForMaskedLM(config)
        self.itm = hf.BridgeTowerForImageAndTextRetrieval(config)
        self.itc = hf.BridgeTowerForContrastiveLearning(config)
        self.mlm.bridgetower.text_model.pooler = None  # nothing reads it
        self.itm.bridgetower = self.itc.bridgetower = self.mlm.bridgetower
        ours = dict(model.named_parameters())
        for head in (self.mlm, self.itm, self.itc):
            head.to(model.logit_scale.device)  # for its buffers
            head.load_state_dict({name: ours[name] for name in head.state_dict()}, assign=True)

    def mlm_loss(self, batch: Batch) -> Tensor:
        """Mean over the masked tokens."""
        labels = torch.full_like(batch.input_ids, IGNORE)
        # Empty places all point to the first token, which is never masked.
        labels = labels.scatter(1, batch.mlm_positions, batch.mlm_labels)
        return self._run(self.mlm, batch.masked_ids, batch, batch.pixel_values, labels=labels).loss  # type: ignore[no-any-return]

    def itm_loss(self, batch: Batch, images: Tensor, match: int) -> Tensor:
        """Mean over the pairs of each text with its row of `images`, all of class `match`."""
        labels = torch.full_like(batch.image_id, match)
        return self._run(self.itm, batch.input_ids, batch, images, labels=labels).loss  # type: ignore[no-any-return]

    def itc_loss(self, batch: Batch) -> Tensor:
        """Mean over the pairs, all others being negatives."""
        return self._run(self.itc, batch.input_ids, batch, batch.pixel_values, return_loss=True).loss  # type: ignore[no-any-return]

    def _run(self, head: nn.Module, ids: Tensor, batch: Batch, pixels: Tensor, **kwargs: Any) -> Any:
        dtype = next(head.parameters()).dtype
        return head(
            input_ids=ids, attention_mask=batch.text_mask.long(), pixel_values=normalize(pixels, dtype), **kwargs
        )


def hugging_face_config(model: ModelConfig, itc_dim: int) -> Any:
    """A transformers.BridgeTowerConfig of the same architecture."""
    described = model_description(model, ObjectiveConfig(itc_dim=itc_dim))
    return _transformers("configuration_bridgetower").BridgeTowerConfig(**described)


def _transformers(module: str) -> Any:
    """A module of transformers' BridgeTower, without its annotations, which differ between its versions."""
    try:
        return importlib.import_module(f"transformers.models.bridgetower.{module}")
    except ImportError as error:
        raise UserError("this needs transformers: pip install 'bridgetower-train[test]'") from error
