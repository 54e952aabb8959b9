"""FLOPs of a training step, from the shapes: matrix products and attention, two per multiply-add.

The rest (norms, activations, the bridges' sums, the similarities of the contrast) is below 1% and not counted.

Names: N image tokens, L text tokens, D width. N is without the patches that `model.patch_dropout` leaves out.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from bridgetower_train.config import HEAD_WIDTH, ModelConfig
from bridgetower_train.model.attention import use_absorbed
from bridgetower_train.model.heads import Head
from bridgetower_train.model.parts import frozen_blocks

TRAINING = 3
"""FLOPs of a step per FLOP of the forward pass: the backward pass has two products for each. Recomputation by activation
checkpointing is not counted, as is usual for model FLOPs utilisation (MFU)."""


class Work(NamedTuple):
    """What a task computes per sample."""

    images: int
    """Images encoded by the image tower."""
    texts: int
    """Texts, or views of them, encoded by the text tower."""
    pooled: int
    """Fused pairs that are read at the first token of both streams."""
    read: int
    """Fused pairs that are read at some tokens of the text stream."""
    tokens: int
    """Number of tokens at which each of the latter is read."""
    heads: tuple[Head, ...]


def forward_flops(model: ModelConfig, work: Work) -> float:
    """FLOPs of the forward pass per sample."""
    N, L, D = model.trained_tokens, model.max_text_len, model.width
    pairs = work.pooled + work.read
    total = work.images * image_tower(model) + work.texts * text_tower(model)
    if model.fusion_layers > 1 and pairs:
        # In the first layer, everything before the cross-attention is computed once per image and per view of the text.
        total += work.images * (_attention(N, N, D) + 2 * N * D**2 + 4 * N * D**2)
        total += work.texts * (_attention(L, L, D) + 2 * L * D**2 + 4 * L * D**2)
        total += pairs * (2 * (N + L) * D**2 + 2 * 4 * N * L * D + _feed_forward(N + L, D))
        total += pairs * (model.fusion_layers - 2) * (cross_layer(N, N, L, D) + cross_layer(L, L, N, D))
    total += work.pooled * (cross_layer(1, N, L, D) + cross_layer(1, L, N, D) + 2 * 2 * D**2)
    total += work.read * cross_layer(work.tokens, L, N, D)
    return total + _heads(model, work.heads)


def training_flops(model: ModelConfig, work: Work, freeze: Sequence[str] = ()) -> float:
    """FLOPs of a training step per sample, without the gradients of what `freeze` (`optim.freeze`) keeps.

    Below the lowest part that trains there is no backward pass; above it a frozen part has one for its input alone. That of
    attention, which has no weights, is left out with it: an error of a few percent of the part.
    """
    blocks = {"image": model.vision_layers, "text": model.text_layers}
    frozen = {tower: frozen_blocks(tower, freeze, count) for tower, count in blocks.items()}
    towers = sum(_lowest(model, work, tower, count) for tower, count in blocks.items())
    below = sum(_lowest(model, work, tower, count) for tower, count in frozen.items())
    heads = _heads(model, work.heads)
    forward = forward_flops(model, work)
    fusion = forward - heads - towers
    passed = 2 if frozen == blocks else 1
    return (
        TRAINING * forward
        - (TRAINING - 1) * below
        - passed * fusion * ("fusion" in freeze)
        - heads * ("heads" in freeze)
    )


def _lowest(model: ModelConfig, work: Work, tower: str, blocks: int) -> float:
    """FLOPs of the forward pass per sample of a tower's embeddings and lowest blocks; -1: of nothing."""
    if tower == "text":
        return work.texts * max(blocks, 0) * _layer(model.max_text_len, model.width)
    patches = _patches(model) if blocks >= 0 else 0.0
    return work.images * (patches + max(blocks, 0) * _layer(model.trained_tokens, model.width))


def _heads(model: ModelConfig, heads: Iterable[Head]) -> float:
    total = 0.0
    with torch.device("meta"):
        for head in heads:
            built = head.build(model)
            if isinstance(built, torch.nn.Module):
                total += head.rows * sum(2 * p.numel() for p in built.parameters() if p.ndim == 2)
    return total


def image_tower(model: ModelConfig) -> float:
    """The image tower, with the transforms of the bridged states."""
    N, D = model.trained_tokens, model.width
    return _patches(model) + model.vision_layers * _layer(N, D) + model.fusion_layers * 2 * N * D**2


def _patches(model: ModelConfig) -> float:
    return 2 * (model.image_tokens - 1) * 3 * model.patch_size**2 * model.width


def text_tower(model: ModelConfig) -> float:
    """The text tower, with the transforms of the bridged states."""
    L, D = model.max_text_len, model.width
    return model.text_layers * _layer(L, D) + model.fusion_layers * 2 * L * D**2


def _layer(tokens: int, D: int) -> float:
    return _attention(tokens, tokens, D) + _feed_forward(tokens, D)


def cross_layer(queries: int, own: int, other: int, D: int, absorbing: bool = True) -> float:
    """One stream's part of a fusion layer for `queries` of its `own` tokens; the other stream has `other` tokens."""
    attention = _attention(queries, own, D, absorbing) + _attention(queries, other, D, absorbing)
    return attention + _feed_forward(queries, D)


def _attention(queries: int, keys: int, D: int, absorbing: bool = True) -> float:
    """`absorbing`: with absorbed attention where model.attention uses it."""
    if absorbing and use_absorbed(queries, keys, D):
        return 8 * queries * D**2 + 4 * (D // HEAD_WIDTH) * queries * keys * D
    return 4 * queries * D**2 + 4 * keys * D**2 + 4 * queries * keys * D


def _feed_forward(tokens: int, D: int) -> float:
    return 16 * tokens * D**2
