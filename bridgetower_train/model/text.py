"""The text tower: RoBERTa (Liu et al., 2019) without its pooler.

Shapes: B texts, L tokens, D width.
"""

import torch
from torch import Tensor, nn

from bridgetower_train.config import PAD_ID, ModelConfig
from bridgetower_train.model.attention import (
    AddNorm,
    Attention,
    AttentionFunction,
    Embedding,
    Intermediate,
    attention_mask,
    top_states,
)
from bridgetower_train.model.precision import LayerNorm


class TextEmbeddings(nn.Module):
    """Word and position embeddings, and that of RoBERTa's one token type."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "a model is built after the tokenizer's size is known"
        self.word_embeddings = Embedding(config.vocab_size, config.width, PAD_ID)
        self.position_embeddings = Embedding(config.text_positions, config.width, PAD_ID)
        self.token_type_embeddings = Embedding(1, config.width)
        self.LayerNorm = LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        positions_BL = mask_BL.cumsum(dim=1) * mask_BL + PAD_ID
        words_BLD = self.word_embeddings(ids_BL) + self.token_type_embeddings(torch.zeros_like(ids_BL[:1, :1]))
        out: Tensor = self.dropout(self.LayerNorm(words_BLD + self.position_embeddings(positions_BL)))
        return out


class TextLayer(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.attention = Attention(config, attention)
        self.intermediate = Intermediate(config)
        self.output = AddNorm(4 * config.width, config)

    def forward(self, x_BLD: Tensor, mask: Tensor) -> Tensor:
        x_BLD = self.attention(x_BLD, x_BLD, mask)
        out: Tensor = self.output(self.intermediate(x_BLD), x_BLD)
        return out


class TextEncoder(nn.Module):
    """The layers of the text tower."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.layer = nn.ModuleList(TextLayer(config, attention) for _ in range(config.text_layers))


class TextModel(nn.Module):
    """The text tower."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = TextEncoder(config, attention)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, top: int) -> list[Tensor]:
        """Token ids and their bool mask -> the outputs (B, L, D) of the last `top` layers, lowest first."""
        x_BLD = self.embeddings(ids_BL, mask_BL)
        return top_states(self.encoder.layer, x_BLD, top, attention_mask(mask_BL, x_BLD.dtype))
