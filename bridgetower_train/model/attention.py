"""Attention and the layers that the towers and the fusion encoder share.

Shapes: B rows, Q queries, T keys, D width, H heads, E width of a head; P = H Q, the queries of all heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.config import HEAD_WIDTH
from bridgetower_train.model.precision import LayerNorm

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""(q_BHQE, k_BHTE, v_BHTE, mask, dropout probability) -> x_BHQE. The mask is bool, broadcasts to BHQT, and is True for keys
that are attended to; None attends to all. Never causal."""


def sdpa(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """PyTorch's own attention, which picks the device's best kernel."""
    return F.scaled_dot_product_attention(q_BHQE, k_BHTE, v_BHTE, attn_mask=mask, dropout_p=dropout_p)


def split_heads(x_BTD: Tensor) -> Tensor:
    """(B, T, D) -> (B, H, T, E)."""
    x_BTHE: Tensor = x_BTD.unflatten(-1, (-1, HEAD_WIDTH))
    return x_BTHE.transpose(1, 2)


def merge_heads(x_BHTE: Tensor) -> Tensor:
    """(B, H, T, E) -> (B, T, D)."""
    return x_BHTE.transpose(1, 2).flatten(2)


def use_absorbed(queries: int, keys: int, width: int) -> bool:
    """Whether so few queries attend to so many keys that `absorbed_attention` takes less than half the FLOPs."""
    heads = width // HEAD_WIDTH
    return 2 * queries * (width + heads * keys) < keys * (width + queries)


def absorbed_attention(
    q_BHQE: Tensor, x_BTD: Tensor, key: nn.Linear, value: nn.Linear, mask: Tensor | None, dropout_p: float
) -> Tensor:
    """Attention from `q_BHQE` to key(x_BTD) and value(x_BTD) without computing either: (B, H, Q, E).

    The projections are moved past the sums (weight absorption): q . Wx = (W'q) . x, and sum p Wx = W sum p x. So the T tokens
    are read once per query and head, and only the sums are projected.
    """
    key_HED, value_HED = (linear.weight.unflatten(0, (-1, HEAD_WIDTH)) for linear in (key, value))
    key_bias_H1E, value_bias_H1E = (linear.bias.view(-1, 1, HEAD_WIDTH) for linear in (key, value))
    q_BHQE = q_BHQE * HEAD_WIDTH**-0.5
    heads_BPD = torch.einsum("bhqe,hed->bhqd", q_BHQE, key_HED).flatten(1, 2)
    logits_BHQT = (heads_BPD @ x_BTD.transpose(1, 2)).unflatten(1, q_BHQE.shape[1:3])
    # The key's bias does not change the softmax, but its parameter must have a gradient, which is zero.
    logits_BHQT = logits_BHQT + (q_BHQE * key_bias_H1E).sum(-1, keepdim=True)
    if mask is not None:
        logits_BHQT = logits_BHQT.masked_fill(~mask, -torch.inf)
    p_BHQT = F.dropout(logits_BHQT.softmax(dim=-1), dropout_p)
    mixed_BHQD = (p_BHQT.flatten(1, 2) @ x_BTD).unflatten(1, q_BHQE.shape[1:3])
    return torch.einsum("bhqd,hed->bhqe", mixed_BHQD, value_HED) + p_BHQT.sum(-1, keepdim=True) * value_bias_H1E


def take(x: Tensor, rows: Tensor | None) -> Tensor:
    """`x[rows]` along the batch; `x` itself where `rows` is None."""
    return x if rows is None else x.index_select(0, rows)


def top_states(blocks: nn.ModuleList, x: Tensor, top: int, *args: Tensor) -> list[Tensor]:
    """The outputs of the last `top` blocks of a tower with input `x`, lowest first; `args` are passed to every block."""
    states = []
    for depth, block in enumerate(blocks):
        x = block(x, *args)
        if depth >= len(blocks) - top:
            states.append(x)
    return states


class Linear(nn.Linear):
    """A linear layer whose weights are initialised from normal(0, std) and whose bias is initialised to zero."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, std: float = 0.02) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """An embedding table initialised from normal(0, std), with a padding row of zeros."""

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
        self.LayerNorm = LayerNorm(width, eps=eps)
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
    """A post-norm attention sublayer as in RoBERTa, to a stream's own tokens or to another stream's."""

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

        With `query_rows` or `key_rows`, row i of the result is for queries_BQD[query_rows[i]] and keys_BTD[key_rows[i]];
        each row is projected once, however often it occurs.
        """
        dropout_p = self.dropout_p if self.training else 0.0
        q = split_heads(take(self.self.query(queries_BQD), query_rows))
        if key_rows is None and use_absorbed(queries_BQD.shape[1], *keys_BTD.shape[1:]):
            x = absorbed_attention(q, keys_BTD, self.self.key, self.self.value, mask, dropout_p)
        else:
            k = split_heads(take(self.self.key(keys_BTD), key_rows))
            v = split_heads(take(self.self.value(keys_BTD), key_rows))
            x = self.attention(q, k, v, mask, dropout_p)
        out: Tensor = self.output(merge_heads(x), take(queries_BQD, query_rows))
        return out
