"""Where in the image does the model look for a word?

Shapes: L text tokens, N image tokens, G patches along an edge, H heads.
"""

from typing import Any

import torch
from torch import Tensor, nn

from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.model.attention import split_heads
from bridgetower_train.tasks.pretraining.predictor import Predictor


def attention_over_image(predictor: Predictor, pixels_3SS: Tensor, ids_L: Tensor, mask_L: Tensor) -> Tensor:
    """float32 (L, G, G): how much each token attends to each patch in the last fusion layer, the mean over its heads.

    The text stream's attention to the image stream. The class token takes its share too, so that they sum to less than 1.
    The weights are recomputed beside the layer, whose own kernel does not return them.
    """
    layer = predictor.model.bridgetower.cross_modal_text_layers[-1].crossattention
    assert isinstance(layer, nn.Module)
    found: list[Tensor] = []

    def record(module: Any, inputs: tuple[Any, ...]) -> None:
        queries, keys = inputs[:2]
        q, k = split_heads(module.self.query(queries)), split_heads(module.self.key(keys))
        logits = (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5
        found.append(logits.softmax(-1).mean(1).cpu())

    hook = layer.register_forward_pre_hook(record)
    try:
        predictor.read(pixels_3SS[None], ids_L[None], mask_L[None], torch.arange(len(ids_L))[None])
    finally:
        hook.remove()
    weights_LN = found[0][0]
    edge = round((weights_LN.shape[1] - 1) ** 0.5)
    weights_LGG: Tensor = weights_LN[:, 1:].unflatten(1, (edge, edge))
    return weights_LGG


def words(text: CaptionTokenizer, ids_L: Tensor, mask_L: Tensor) -> list[tuple[str, list[int]]]:
    """The words of a text and the positions of their tokens; without punctuation, and with `<mask>` as a word."""
    groups: list[list[int]] = []
    begins = True
    for place, token in enumerate(ids_L[mask_L].tolist()):
        if text.special[token] and token != text.mask:
            continue
        piece = text.piece(token)
        begins = begins or token == text.mask or piece.startswith(" ")
        if token == text.mask or any(letter.isalnum() for letter in piece):
            groups += [[]] if begins else []
            groups[-1].append(place)
            begins = token == text.mask
    return [(text.decode(ids_L[group]), group) for group in groups]
