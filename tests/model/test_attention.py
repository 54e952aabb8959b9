"""Attention where few tokens ask: sums before projections give what projections before sums give."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.config import ModelConfig
from bridgetower_train.model.attention import (
    Linear,
    QueryKeyValue,
    absorbed_attention,
    attention_mask,
    sdpa,
    split_heads,
    use_absorbed,
)

B, T, WIDTH = 3, 11, 128


def made(queries: int) -> tuple[Tensor, Tensor, Linear, Linear, Tensor]:
    """Queries by head, tokens, the two projections with biases that are not zero, and a mask."""
    torch.manual_seed(0)
    key, value = (Linear(WIDTH, WIDTH, std=0.3).double() for _ in range(2))
    for linear in (key, value):
        torch.nn.init.normal_(linear.bias)
    q = torch.randn(B, WIDTH // 64, queries, 64, dtype=torch.float64, requires_grad=True)
    x = torch.randn(B, T, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = attention_mask(torch.arange(T) < torch.tensor([T, 4, 1])[:, None], torch.float64)
    return q, x, key, value, mask


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_folded_is_plain(queries: int, masked: bool):
    q, x, key, value, mask = made(queries)
    seen = mask if masked else None
    leaves = [q, x, *key.parameters(), *value.parameters()]
    results = []
    for out in (
        sdpa(q, split_heads(key(x)), split_heads(value(x)), seen, 0.0),
        absorbed_attention(q, x, key, value, seen, 0.0),
    ):
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for plain, folded in zip(*results, strict=True):
        torch.testing.assert_close(folded, plain, rtol=0, atol=1e-10)


def test_dropout_drops_the_same_tokens_of_keys_and_bias():
    q, x, key, value, mask = made(1)
    torch.manual_seed(1)
    folded = absorbed_attention(q, x, key, value, mask, 0.5)
    logits = (q @ split_heads(key(x)).transpose(-2, -1) / 8) + mask
    torch.manual_seed(1)
    plain = F.dropout(logits.softmax(-1), 0.5) @ split_heads(value(x))
    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("queries", "keys", "folded"), [(1, 325, True), (1, 50, True), (8, 325, True), (50, 50, False)]
)
def test_few_queries_fold(queries: int, keys: int, folded: bool):
    assert use_absorbed(queries, keys, 768) is folded
    assert not use_absorbed(50, 325, 768), "the products by head would take longer than they save"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_hides_as_minus_infinity_does(dtype: torch.dtype):
    """Bit by bit, in the result and the gradients."""
    torch.manual_seed(0)
    q = torch.randn(B, 2, T, 64, dtype=dtype, requires_grad=True)
    seen = torch.arange(T) < torch.tensor([T, 4, 1])[:, None]
    results = []
    for mask in (attention_mask(seen, dtype), seen[:, None, None, :]):
        out = sdpa(q, q, q, mask, 0.0)
        results.append([out, *torch.autograd.grad(out.square().sum(), q)])
    assert all(torch.equal(ours, boolean) for ours, boolean in zip(*results, strict=True))


@pytest.mark.parametrize("cross", [False, True])
def test_one_product_is_three(monkeypatch: pytest.MonkeyPatch, cross: bool):
    torch.manual_seed(0)
    layer = QueryKeyValue(ModelConfig(width=WIDTH)).double()
    x, y = (torch.randn(B, n, WIDTH, dtype=torch.float64, requires_grad=True) for n in (6, 8))
    leaves = [x, *layer.parameters(), *([y] if cross else [])]
    results = []
    for packed in (True, False):
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda _, packed=packed: packed)
        out = layer(x, y if cross else x)
        results.append([*out, *torch.autograd.grad(torch.cat(out, dim=1).sin().sum(), leaves)])
    for one, three in zip(*results, strict=True):
        torch.testing.assert_close(one, three, rtol=0, atol=1e-10)
