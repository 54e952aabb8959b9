"""Attention and the layers that the towers and the fusion encoder share.

Shapes: B rows, Q queries, T keys, D width, H heads, E width of a head.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.config import HEAD_WIDTH

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""(q_BHQE, k_BHTE, v_BHTE, mask, dropout probability) -> x_BHQE. The mask is bool, broadcasts to BHQT, and is True where a
key is seen; None sees all. Never causal."""


def sdpa(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """PyTorch's own attention, which picks the best kernel of the device."""
    return F.scaled_dot_product_attention(q_BHQE, k_BHTE, v_BHTE, attn_mask=mask, dropout_p=dropout_p)


def split_heads(x_BTD: Tensor) -> Tensor:
    """(B, T, D) -> (B, H, T, E)."""
    x_BTHE: Tensor = x_BTD.unflatten(-1, (-1, HEAD_WIDTH))
    return x_BTHE.transpose(1, 2)


def merge_heads(x_BHTE: Tensor) -> Tensor:
    """(B, H, T, E) -> (B, T, D)."""
    return x_BHTE.transpose(1, 2).flatten(2)


def take(x: Tensor, rows: Tensor | None) -> Tensor:
    """`x[rows]` along the batch; `x` itself where `rows` is None."""
    return x if rows is None else x.index_select(0, rows)


def top_states(blocks: nn.ModuleList, x: Tensor, top: int, *args: Tensor) -> list[Tensor]:
    """The outputs of the `top` last blocks of a tower that starts from `x`, lowest first; `args` go to every block."""
    states = []
    for depth, block in enumerate(blocks):
        x = block(x, *args)
        if depth >= len(blocks) - top:
            states.append(x)
    return states


class Linear(nn.Linear):
    """A linear layer that starts with weights from normal(0, std) and a bias of zero."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, std: float = 0.02) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """A table that starts from normal(0, std), its padding row at zero."""

    def __init__(self, rows: int, width: int, padding_idx: int | None = None, std: float = 0.02) -> None:
        self.std = std
        super().__init__(rows, width, padding_idx)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        self._fill_padding_idx_with_zero()


class AddNorm(nn.Module):
    """The end of each post-norm sublayer: LayerNorm(dropout(dense(x)) + residual)."""

    def __init__(self, in_features: int, width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.dense = Linear(in_features, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


class Intermediate(nn.Module):
    """The first half of a feed-forward sublayer: GELU(dense(x)), four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class QueryKeyValue(nn.Module):
    """The three projections of an attention sublayer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)


class Attention(nn.Module):
    """A post-norm attention sublayer, to the own tokens or to another stream's (as in RoBERTa)."""

    def __init__(self, width: int, dropout: float, eps: float, attention: AttentionFunction) -> None:
        super().__init__()
        self.self = QueryKeyValue(width)
        self.output = AddNorm(width, width, dropout, eps)
        self.dropout_p = dropout
        self.attention = attention

    def forward(
        self,
        queries_BQD: Tensor,
        keys_BTD: Tensor,
        mask: Tensor | None = None,
        query_rows: Tensor | None = None,
        key_rows: Tensor | None = None,
    ) -> Tensor:
        """Attend from `queries_BQD` to `keys_BTD`; the result has the shape of the queries.

        With `query_rows` or `key_rows`, row i of the result is that of queries_BQD[query_rows[i]] and
        keys_BTD[key_rows[i]]: rows that occur several times are projected once.
        """
        q = split_heads(take(self.self.query(queries_BQD), query_rows))
        k = split_heads(take(self.self.key(keys_BTD), key_rows))
        v = split_heads(take(self.self.value(keys_BTD), key_rows))
        x = self.attention(q, k, v, mask, self.dropout_p if self.training else 0.0)
        out: Tensor = self.output(merge_heads(x), take(queries_BQD, query_rows))
        return out
