"""The heads of the losses.

Shapes: D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.attention import Linear
from bridgetower_train.model.precision import at_least_fp32, no_autocast


@dataclass(frozen=True)
class Heads:
    """Which heads a model has: those that its objective reads."""

    mlm: bool = False
    """The vocabulary head."""
    itm: bool = False
    """Does the text describe the image?"""
    itc_dim: int = 0
    """Width of the contrastive embeddings of text and image; 0: none."""
    itc_cross_modal: bool = False
    """Also the contrastive embedding of the fused pair."""


class Float32Linear(Linear):
    """A small linear layer in float32 at least, whatever the precision around it: what it gives goes into a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            return F.linear(at_least_fp32(x), at_least_fp32(self.weight), at_least_fp32(self.bias))


class LinearHead(nn.Module):
    """One linear layer `fc`: the form of the ITM and ITC heads."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = Float32Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out


class MLMTransform(nn.Module):
    """LayerNorm(GELU(dense(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(F.gelu(self.dense(x)))
        return out


class MLMHead(nn.Module):
    """(..., D) -> logits (..., V); its matrix is its own, not that of the word embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "the tokenizer's size is known when a model is built"
        self.transform = MLMTransform(config)
        self.decoder = Linear(config.width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.transform(x))
        return logits + self.bias
