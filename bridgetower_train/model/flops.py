"""FLOPs of a training step, from the shapes: matrix products and attention, two per multiplication and addition.

What is left out (norms, activations, bridges' sums, the similarities of the contrast) is below 1%.

Names: N image tokens, L text tokens, D width.
"""

import math

from bridgetower_train.config import HEAD_WIDTH, ModelConfig, ObjectiveConfig
from bridgetower_train.model.attention import use_absorbed
from bridgetower_train.tasks.pretraining.pairs import PairKinds

TRAINING = 3
"""A step's FLOPs per forward FLOP: the backward pass makes two products of each. Work repeated by activation checkpointing is
not counted, as is usual for the utilisation of a device."""


def step_flops_per_sample(model: ModelConfig, objective: ObjectiveConfig) -> float:
    """FLOPs of our joint step, forward and backward, per (image, text) pair of the batch."""
    return TRAINING * forward_flops_per_sample(model, objective)


def forward_flops_per_sample(model: ModelConfig, objective: ObjectiveConfig) -> float:
    """FLOPs of our joint forward pass per (image, text) pair of the batch."""
    needs = PairKinds.of(objective)
    N, L, D = model.image_tokens, model.max_text_len, model.width
    views = needs.clean + needs.masked
    pairs = needs.pooled + needs.masked
    masked = math.ceil(objective.mlm_probability * (L - 2)) if needs.masked else 0
    total = _image_tower(model) + views * _text_tower(model)
    if model.fusion_layers > 1:
        # In the first layer, what precedes the cross-attention itself is done once per image and per view of the text.
        total += _attention(N, N, D) + 2 * N * D**2 + 4 * N * D**2
        total += views * (_attention(L, L, D) + 2 * L * D**2 + 4 * L * D**2)
        total += pairs * (2 * (N + L) * D**2 + 2 * 4 * N * L * D + _feed_forward(N + L, D))
        total += pairs * (model.fusion_layers - 2) * (_cross_layer(N, N, L, D) + _cross_layer(L, L, N, D))
    total += needs.pooled * (_cross_layer(1, N, L, D) + _cross_layer(1, L, N, D) + 2 * 2 * D**2)
    total += needs.masked * _cross_layer(masked, L, N, D)
    return total + _heads(model, objective, masked, needs.mismatched + 1)


def separate_flops_per_sample(model: ModelConfig, objective: ObjectiveConfig) -> dict[str, float]:
    """Forward FLOPs per pair of one whole pass for each loss (`mlm`, `itm`, `itc`), as Hugging Face's classes do it.

    ITM's is for one pair; the same loss as ours takes two, the aligned and the mismatched one.
    """
    N, L, D = model.image_tokens, model.max_text_len, model.width
    trunk = _image_tower(model) + _text_tower(model) + 2 * 2 * D**2
    trunk += model.fusion_layers * (_cross_layer(N, N, L, D, False) + _cross_layer(L, L, N, D, False))
    heads = {
        "mlm": (objective.mlm, L * (2 * D**2 + 2 * D * _vocabulary(model))),
        "itm": (objective.itm, 2 * 2 * D * 2),
        "itc": (objective.itc, 2 * N * D**2 + 2 * 4 * D * objective.itc_dim),
    }
    return {name: trunk + head for name, (weight, head) in heads.items() if weight}


def _vocabulary(model: ModelConfig) -> int:
    assert model.vocab_size is not None, "the tokenizer's size is known when FLOPs are counted"
    return model.vocab_size


def _heads(model: ModelConfig, objective: ObjectiveConfig, masked: int, itm_pairs: int) -> float:
    D = model.width
    mlm = masked * (2 * D**2 + 2 * D * _vocabulary(model)) if objective.mlm else 0
    itm = itm_pairs * 2 * 2 * D * 2 if objective.itm else 0
    itc = 2 * (2 if objective.itc_form == "ms" else 4) * D * objective.itc_dim if objective.itc else 0
    return mlm + itm + itc


def _image_tower(model: ModelConfig) -> float:
    """With the transforms of the bridged states."""
    N, D = model.image_tokens, model.width
    patches = 2 * (N - 1) * 3 * model.patch_size**2 * D
    return patches + model.vision_layers * _layer(N, D) + model.fusion_layers * 2 * N * D**2


def _text_tower(model: ModelConfig) -> float:
    """With the transforms of the bridged states."""
    L, D = model.max_text_len, model.width
    return model.text_layers * _layer(L, D) + model.fusion_layers * 2 * L * D**2


def _layer(tokens: int, D: int) -> float:
    return _attention(tokens, tokens, D) + _feed_forward(tokens, D)


def _cross_layer(queries: int, own: int, other: int, D: int, folding: bool = True) -> float:
    """A stream's layer for `queries` of its `own` tokens, beside a stream of `other` tokens."""
    attention = _attention(queries, own, D, folding) + _attention(queries, other, D, folding)
    return attention + _feed_forward(queries, D)


def _attention(queries: int, keys: int, D: int, folding: bool = True) -> float:
    """`folding`: as model.attention does it where few tokens ask many."""
    if folding and use_absorbed(queries, keys, D):
        return 8 * queries * D**2 + 4 * (D // HEAD_WIDTH) * queries * keys * D
    return 4 * queries * D**2 + 4 * keys * D**2 + 4 * queries * keys * D


def _feed_forward(tokens: int, D: int) -> float:
    return 16 * tokens * D**2
