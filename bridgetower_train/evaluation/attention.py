"""Where in the image does the model look for a word?

Shapes: I images, L text tokens, N image tokens, G patches along an edge, H heads.
"""

from typing import Any

import torch
from torch import Tensor, nn

from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.evaluation.base import OpenModel
from bridgetower_train.model.attention import split_heads
from bridgetower_train.model.bridgetower import Pairs
from bridgetower_train.tasks.base import evaluating


def attention_over_images(model: OpenModel, pixels_I3SS: Tensor, ids_L: Tensor, mask_L: Tensor) -> Tensor:
    """float32 (I, L, G, G): how much each token attends to each patch of a sample's images in the last fusion layer, the
    mean over its heads.

    The text stream's attention to the image stream. The class token takes its share too, so that they sum to less than 1.
    The weights are recomputed beside the layer, whose own kernel does not return them.
    """
    task, where = model.task, model.device.torch_device
    layer = task.model.bridgetower.cross_modal_text_layers[-1].crossattention
    assert isinstance(layer, nn.Module)
    found: list[Tensor] = []

    def record(module: Any, inputs: tuple[Any, ...]) -> None:
        queries, keys = inputs[:2]
        q, k = split_heads(module.self.query(queries)), split_heads(module.self.key(keys))
        logits = (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5
        found.append(logits.softmax(-1).mean(1).cpu())

    hook = layer.register_forward_pre_hook(record)
    try:
        with evaluating(task, model.device):
            image = task.encode_images(pixels_I3SS.to(where))
            text = task.model.encode_text(ids_L[None].to(where), mask_L[None].to(where))
            rows_I = torch.arange(len(pixels_I3SS), device=where)
            places_IL = torch.arange(len(ids_L), device=where).expand(len(rows_I), -1)
            task.model.fuse(image, text, Pairs(rows_I, torch.zeros_like(rows_I), 0, places_IL))
    finally:
        hook.remove()
    weights_ILN = found[0]
    edge = round((weights_ILN.shape[2] - 1) ** 0.5)
    weights_ILGG: Tensor = weights_ILN[..., 1:].unflatten(2, (edge, edge))
    return weights_ILGG


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
