"""Masked language modelling (MLM): the vocabulary head and its loss.

Shapes: B texts, M masked tokens per text, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.attention import Linear
from bridgetower_train.model.precision import LayerNorm, at_least_fp32
from bridgetower_train.tasks.pretraining.masking import IGNORE


class MLMTransform(nn.Module):
    """LayerNorm(GELU(dense(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width)
        self.LayerNorm = LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(F.gelu(self.dense(x)))
        return out


class MLMHead(nn.Module):
    """(..., D) -> logits (..., V); its matrix is not tied to the word embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "a model is built after the tokenizer's size is known"
        self.transform = MLMTransform(config)
        self.decoder = Linear(config.width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.transform(x))
        return logits + self.bias


def mlm_loss(logits_BMV: Tensor, labels_BM: Tensor) -> tuple[Tensor, Tensor]:
    """(cross entropy, correct predictions), each summed over the masked tokens; those labelled IGNORE do not count."""
    logits, labels = logits_BMV.flatten(0, 1), labels_BM.flatten()
    loss = F.cross_entropy(at_least_fp32(logits), labels, ignore_index=IGNORE, reduction="sum")
    return loss, (logits.argmax(dim=-1) == labels).sum()
