"""Reasoning about two images (NLVR2, Suhr et al., 2019): is a sentence about them true?

Shapes: B samples, D width.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.model.attention import AttentionFunction, sdpa
from bridgetower_train.model.bridgetower import TOKEN_TYPES, ImageStates
from bridgetower_train.tasks.classification.reader import TwoImageReader
from bridgetower_train.tasks.classification.task import Classification

SECOND_IMAGE = 2
"""Token type of the second image; text has 0, and an image 1."""
SECOND_TYPE = "nlvr2_token_type"
"""Name of its embedding, (D,), in an exported folder, whose trunk has the other two."""

_LOGITS = f"""# The trunk sees each image by itself, the second with its own type of token; the head reads both results.
types = model.token_type_embeddings.weight.detach()
model.token_type_embeddings = nn.Embedding.from_pretrained(torch.cat([types, weights["{SECOND_TYPE}"][None]]))
pooled = [model(**inputs, image_token_type_idx=n).pooler_output for n, inputs in ((1, of_first), (2, of_second))]
logits = head(torch.cat(pooled, dim=-1))"""


class NLVR2(Classification):
    """The sentence is fused with each image; the second image has a token type of its own, begun as a copy of the image's."""

    title: ClassVar[str] = "reasoning about two images (NLVR2)"
    head_name: ClassVar[str] = "nlvr2_classifier"
    images: ClassVar[int] = 2
    hidden: ClassVar[float] = 1.5
    head_dropout: ClassVar[float] = 0.1
    loaded_logits: ClassVar[str] = _LOGITS
    published_labels: ClassVar[int] = 2
    token_types: ClassVar[int] = 3

    def __init__(self, config: TrainConfig, attention: AttentionFunction = sdpa) -> None:
        super().__init__(config, attention)
        with torch.no_grad():
            table = self.model.bridgetower.token_type_embeddings.weight
            table[SECOND_IMAGE] = table[1]

    @classmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> TwoImageReader:
        return TwoImageReader(names)

    @classmethod
    def adapt(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint without a type for the second image gets a copy of the image's."""
        second = weights.get(SECOND_TYPE)
        kept = {name: tensor for name, tensor in weights.items() if name != SECOND_TYPE}
        table = kept.get(TOKEN_TYPES)
        if table is not None and len(table) == SECOND_IMAGE:
            kept[TOKEN_TYPES] = torch.cat([table, (table[1] if second is None else second)[None]])
        return kept

    @classmethod
    def released(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The type of the second image goes beside the trunk, which has two."""
        table = weights[TOKEN_TYPES]
        return {**weights, TOKEN_TYPES: table[:SECOND_IMAGE].clone(), SECOND_TYPE: table[SECOND_IMAGE].clone()}

    def encode_images(self, pixels: Tensor, patches: Tensor | None = None) -> ImageStates:
        kinds = 1 + torch.arange(len(pixels), device=pixels.device) % self.images
        return self.model.encode_image(self._seen(pixels), kinds, patches)
