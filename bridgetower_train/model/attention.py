"""Attention and the layers that the towers and the fusion encoder share.

Shapes: B rows, Q queries, T keys, D width, H heads, E width of a head; P = H Q, the queries of all heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridgetower_train.config import HEAD_WIDTH, ModelConfig
from bridgetower_train.model.precision import LayerNorm

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""(q_BHQE, k_BHTE, v_BHTE, mask, dropout probability) -> x_BHQE. The mask is one of `attention_mask`; None attends to all keys.
Never causal."""

ProductFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x (..., I), weight (O, I), bias (O,) or None) -> (..., O), as torch.nn.functional.linear."""


def sdpa(q_BHQE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """PyTorch's own attention, which picks the device's best kernel."""
    return F.scaled_dot_product_attention(q_BHQE, k_BHTE, v_BHTE, attn_mask=mask, dropout_p=dropout_p)


def attention_mask(mask_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the logits, (B, 1, 1, T): 0 for keys that are attended to, the lowest number for the others.

    `mask_BT` is bool, True for the former. Made once for all blocks of a tower or of the fusion, in the type of their streams:
    torch would make the same of a bool mask in each of them.
    """
    added_BT = torch.zeros_like(mask_BT, dtype=dtype).masked_fill_(~mask_BT, torch.finfo(dtype).min)
    return added_BT[:, None, None, :]


def split_heads(x_BTD: Tensor) -> Tensor:
    """(B, T, D) -> (B, H, T, E)."""
    x_BTHE: Tensor = x_BTD.view(*x_BTD.shape[:-1], -1, HEAD_WIDTH)
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
    key_HED, value_HED = (linear.weight.view(-1, HEAD_WIDTH, linear.weight.shape[1]) for linear in (key, value))
    key_bias_H1E, value_bias_H1E = (linear.bias.view(-1, 1, HEAD_WIDTH) for linear in (key, value))
    q_BHQE = q_BHQE * HEAD_WIDTH**-0.5
    heads_BPD = torch.einsum("bhqe,hed->bhqd", q_BHQE, key_HED).flatten(1, 2)
    logits_BHQT = (heads_BPD @ x_BTD.transpose(1, 2)).view(*q_BHQE.shape[:3], -1)
    # The key's bias does not change the softmax, but its parameter must have a gradient, which is zero.
    logits_BHQT = logits_BHQT + (q_BHQE * key_bias_H1E).sum(-1, keepdim=True)
    if mask is not None:
        logits_BHQT = logits_BHQT + mask
    p_BHQT = F.dropout(logits_BHQT.softmax(dim=-1), dropout_p)
    mixed_BHQD = (p_BHQT.flatten(1, 2) @ x_BTD).view(*q_BHQE.shape[:3], -1)
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

    product: ProductFunction = staticmethod(F.linear)
    """The device may replace it."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, std: float = 0.02) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)

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

    def __init__(self, in_features: int, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(in_features, config.width, std=config.init_std)
        self.LayerNorm = LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


class Intermediate(nn.Module):
    """The first half of a feed-forward sublayer: GELU(dense(x)), four times as wide."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, 4 * config.width, std=config.init_std)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class QueryKeyValue(nn.Module):
    """The three projections of an attention sublayer.

    Under autocast, which copies weights anyway, they are copied together for one product. That takes 24 D^2 bytes more and saves
    12 D a row: tokens are read once, and the backward pass puts three gradients together instead of adding up three results. A
    step of `large` launches 12% fewer operators. In float32 the copies would be kept for the backward pass besides.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, std = config.width, config.init_std
        self.query = Linear(width, width, std=std)
        self.key = Linear(width, width, std=std)
        self.value = Linear(width, width, std=std)

    def forward(self, queries_BQD: Tensor, keys_BTD: Tensor) -> tuple[Tensor, ...]:
        """The projected queries (B, Q, D), and keys and values (B, T, D)."""
        if queries_BQD is keys_BTD:
            return self._project(keys_BTD, self.query, self.key, self.value)
        return self.query(queries_BQD), *self._project(keys_BTD, self.key, self.value)

    def _project(self, x_BTD: Tensor, *linears: Linear) -> tuple[Tensor, ...]:
        kind = x_BTD.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return tuple(linear(x_BTD) for linear in linears)
        weight, bias = (torch.cat([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))
        return F.linear(x_BTD, weight, bias).chunk(len(linears), dim=-1)


class Attention(nn.Module):
    """A post-norm attention sublayer as in RoBERTa, to a stream's own tokens or to another stream's."""

    def __init__(self, config: ModelConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.self = QueryKeyValue(config)
        self.output = AddNorm(config.width, config)
        self.dropout_p = config.dropout
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
        if key_rows is None and use_absorbed(queries_BQD.shape[1], *keys_BTD.shape[1:]):
            q = split_heads(take(self.self.query(queries_BQD), query_rows))
            x = absorbed_attention(q, keys_BTD, self.self.key, self.self.value, mask, dropout_p)
        else:
            projected = zip(self.self(queries_BQD, keys_BTD), (query_rows, key_rows, key_rows), strict=True)
            q, k, v = (split_heads(take(y, rows)) for y, rows in projected)
            x = self.attention(q, k, v, mask, dropout_p)
        out: Tensor = self.output(merge_heads(x), take(queries_BQD, query_rows))
        return out
