"""Converts the names of published weights to the model's.

Each function takes name -> tensor as in a file, and returns name -> tensor under the model's names. Tensors that are known not
to be used by the model are dropped; unknown ones keep their names, so that `fit` reports them.
"""

import re

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

IMAGE_TOWER = "bridgetower.vision_model.visual."
"""Prefix of the image tower."""

TEXT_TOWER = "bridgetower.text_model."
"""Prefix of the text tower."""

POSITIONS = f"{IMAGE_TOWER}embeddings.position_embedding.weight"
"""The image tower's position table."""

WORDS = f"{TEXT_TOWER}embeddings.word_embeddings.weight"
"""The text tower's word embeddings."""

_OPENAI_IMAGE = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
)

_CLIP_IMAGE = (
    (r"^pre_layrnorm\.", "ln_pre."),  # Hugging Face's spelling
    (r"^post_layernorm\.", "ln_post."),
    (r"^encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)

_CLIP_UNUSED = r"text_model\.|text_projection|visual_projection|logit_scale$|(.*\.)?position_ids$"
_OPENAI_UNUSED = (
    r"transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection$|logit_scale$|visual\.proj$|"
    r"(input_resolution|context_length|vocab_size)$"
)
_ROBERTA_UNUSED = r"(roberta\.)?(pooler\.|embeddings\.position_ids$)|lm_head\."
_HUGGING_FACE_UNUSED = r"bridgetower\.text_model\.pooler\.|.*\.position_ids$"
_MICROSOFT_UNUSED = (
    r"vit_model\.(positional_embedding$|ln_final\.)|text_transformer\.(pooler\.|embeddings\.position_ids$)"
)


def image_tower(theirs: Tensors) -> Tensors:
    """CLIP's image tower, in Hugging Face's format or OpenAI's; CLIP's text tower and projections are dropped."""
    if any(name.startswith("visual.") for name in theirs):
        ours = {}
        for name, tensor in _without(theirs, _OPENAI_UNUSED).items():
            inner = name.removeprefix("visual.")
            ours[name if inner == name else IMAGE_TOWER + _renamed(inner, _OPENAI_IMAGE)] = tensor
        return ours
    kept = _without(theirs, _CLIP_UNUSED)
    return _joined(
        {IMAGE_TOWER + _renamed(name.removeprefix("vision_model."), _CLIP_IMAGE): t for name, t in kept.items()}
    )


def text_tower(theirs: Tensors) -> Tensors:
    """RoBERTa, with or without one of its heads; pooler and vocabulary head are dropped."""
    return {TEXT_TOWER + name.removeprefix("roberta."): t for name, t in _without(theirs, _ROBERTA_UNUSED).items()}


def whole_model(theirs: Tensors) -> Tensors:
    """A BridgeTower: Microsoft's, or in the format of the Hugging Face classes, as ours are. The text pooler is dropped."""
    if any(name.startswith("vit_model.visual.") for name in theirs):
        return _microsoft(theirs)
    if not any(name.startswith("bridgetower.") for name in theirs):
        theirs = {f"bridgetower.{name}": tensor for name, tensor in theirs.items()}  # saved by BridgeTowerModel
    return _without(theirs, _HUGGING_FACE_UNUSED)


def _microsoft(theirs: Tensors) -> Tensors:
    ours = {}
    for name, tensor in _without(theirs, _MICROSOFT_UNUSED).items():
        if name.startswith("vit_model.visual."):
            ours[IMAGE_TOWER + _renamed(name.removeprefix("vit_model.visual."), _OPENAI_IMAGE)] = tensor
        elif name.startswith("text_transformer."):
            ours[TEXT_TOWER + name.removeprefix("text_transformer.")] = tensor
        elif name == "temperature":
            ours["logit_scale"] = -tensor.float().log()
        elif name.startswith(("cross_modal_", "token_type_embeddings.")):
            ours[f"bridgetower.{name}"] = tensor
        else:
            ours[name] = tensor
    return ours


def _without(tensors: Tensors, unused: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not re.match(unused, name)}


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _joined(tensors: Tensors) -> Tensors:
    """Join separate projections of query, key and value into one."""
    joined = dict(tensors)
    for name in tensors:
        stem, mark, kind = name.partition(".attn.q_proj.")
        parts = [f"{stem}.attn.{letter}_proj.{kind}" for letter in "qkv"]
        if mark and all(part in tensors for part in parts):
            joined[f"{stem}.attn.in_proj_{kind}"] = torch.cat([joined.pop(part) for part in parts])
    return joined
