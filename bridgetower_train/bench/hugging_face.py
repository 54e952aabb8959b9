"""Hugging Face's three BridgeTower classes on our weights: the usual way to the three losses, with a whole pass for each."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig, ObjectiveConfig, TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.errors import UserError
from bridgetower_train.model.bridgetower import BridgeTower
from bridgetower_train.model.flops import cross_layer, image_tower, text_tower
from bridgetower_train.model.vision import normalize
from bridgetower_train.tasks.pretraining.masking import IGNORE
from bridgetower_train.weights.hf_files import model_description


class HuggingFaceHeads(nn.Module):
    """BridgeTowerForMaskedLM, ...ForImageAndTextRetrieval and ...ForContrastiveLearning around one trunk.

    Their parameters are those of `model`, not copies. UserError where `transformers` is not installed.
    """

    def __init__(self, model: BridgeTower, run: TrainConfig) -> None:
        super().__init__()
        hf = _transformers("modeling_bridgetower")
        config = hugging_face_config(run)
        self.mlm = hf.BridgeTowerForMaskedLM(config)
        self.itm = hf.BridgeTowerForImageAndTextRetrieval(config)
        self.itc = hf.BridgeTowerForContrastiveLearning(config)
        self.mlm.bridgetower.text_model.pooler = None  # unused
        self.itm.bridgetower = self.itc.bridgetower = self.mlm.bridgetower
        ours = dict(model.named_parameters())
        for head in (self.mlm, self.itm, self.itc):
            head.to(model.head("logit_scale").device)  # for its buffers
            head.load_state_dict({name: ours[name] for name in head.state_dict()}, assign=True)

    def mlm_loss(self, batch: Batch) -> Tensor:
        """Mean over the masked tokens."""
        labels = torch.full_like(batch.input_ids, IGNORE)
        # Empty places all point at the first token, which is never masked.
        labels = labels.scatter(1, batch.labels["mlm_positions"], batch.labels["mlm_labels"])
        return self._run(self.mlm, batch.labels["masked_ids"], batch, batch.pixel_values, labels=labels).loss  # type: ignore[no-any-return]

    def itm_loss(self, batch: Batch, images: Tensor, match: int) -> Tensor:
        """Mean over the pairs of each text with its row of `images`, all of class `match`."""
        labels = torch.full_like(batch.image_id, match)
        return self._run(self.itm, batch.input_ids, batch, images, labels=labels).loss  # type: ignore[no-any-return]

    def itc_loss(self, batch: Batch) -> Tensor:
        """Mean over the pairs, with all others as negatives."""
        return self._run(self.itc, batch.input_ids, batch, batch.pixel_values, return_loss=True).loss  # type: ignore[no-any-return]

    def _run(self, head: nn.Module, ids: Tensor, batch: Batch, pixels: Tensor, **kwargs: Any) -> Any:
        pixels = normalize(pixels, next(head.parameters()).dtype)
        return head(input_ids=ids, attention_mask=batch.text_mask.long(), pixel_values=pixels, **kwargs)


def hugging_face_config(run: TrainConfig) -> Any:
    """A transformers.BridgeTowerConfig of the same architecture."""
    return _transformers("configuration_bridgetower").BridgeTowerConfig(**model_description(run))


def separate_flops(model: ModelConfig, objective: ObjectiveConfig) -> dict[str, float]:
    """Forward FLOPs per pair of one whole pass for each loss (`mlm`, `itm`, `itc`), as Hugging Face's classes do it.

    ITM's is for one pair; our loss takes two, the aligned and the mismatched one.
    """
    assert model.vocab_size is not None
    N, L, D, V = model.image_tokens, model.max_text_len, model.width, model.vocab_size
    trunk = image_tower(model) + text_tower(model) + 2 * 2 * D**2
    trunk += model.fusion_layers * (cross_layer(N, N, L, D, False) + cross_layer(L, L, N, D, False))
    heads = {
        "mlm": (objective.mlm, L * (2 * D**2 + 2 * D * V)),
        "itm": (objective.itm, 2 * 2 * D * 2),
        "itc": (objective.itc, 2 * N * D**2 + 2 * 4 * D * objective.itc_dim),
    }
    return {name: trunk + head for name, (weight, head) in heads.items() if weight}


def _transformers(module: str) -> Any:
    """A module of transformers' BridgeTower, untyped since its annotations differ between versions."""
    try:
        return importlib.import_module(f"transformers.models.bridgetower.{module}")
    except ImportError as error:
        raise UserError("Hugging Face's classes need transformers: pip install 'bridgetower-train[test]'") from error
