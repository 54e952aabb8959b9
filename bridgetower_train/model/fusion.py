"""The parts of the fusion encoder: cross layers, bridges and poolers (BridgeTower, Xu et al., 2022, section 3).

Shapes: P pairs, B images or texts, Q queries, T tokens of the own stream, U tokens of the other, D width.
"""

import torch
from torch import Tensor, nn

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.attention import AddNorm, Attention, AttentionFunction, Intermediate, Linear
from bridgetower_train.model.precision import LayerNorm


class CrossLayer(nn.Module):
    """One stream's half of a fusion layer: attention to itself, to the other stream, then feed-forward."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.attention = Attention(config, attention)
        self.crossattention = Attention(config, attention)
        self.intermediate = Intermediate(config)
        self.output = AddNorm(4 * config.width, config)

    def forward(
        self,
        own_PTD: Tensor,
        other_PUD: Tensor,
        own_mask: Tensor | None = None,
        other_mask: Tensor | None = None,
        queries: Tensor | None = None,
        own_rows: Tensor | None = None,
        other_rows: Tensor | None = None,
    ) -> Tensor:
        """The stream's next states, for all its tokens or only for `queries` (P, Q, D), the ones that are read.

        With `own_rows` and `other_rows` the streams have one row per text or image, and pair i consists of
        own_PTD[own_rows[i]] and other_PUD[other_rows[i]]: what depends on only one of them is computed once.
        `other_mask` has one row per pair.
        """
        x_PQD = self.attention(own_PTD if queries is None else queries, own_PTD, own_mask)
        x_PQD = self.crossattention(x_PQD, other_PUD, other_mask, own_rows, other_rows)
        out: Tensor = self.output(self.intermediate(x_PQD), x_PQD)
        return out


class Bridge(nn.Module):
    """Adds a tower's states to a stream's: LayerNorm(state + stream)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.LayerNorm = LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, state_BTD: Tensor, stream_PTD: Tensor, rows_P: Tensor) -> Tensor:
        """(P, T, D), of state_BTD[rows_P[i]] and stream_PTD[i] for pair i."""
        out: Tensor = self.LayerNorm(state_BTD.index_select(0, rows_P) + stream_PTD)
        return out


class Pooler(nn.Module):
    """tanh(dense(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width, std=config.init_std)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x))
