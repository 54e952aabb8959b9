"""Converts the names of published weights to the model's.

Each function takes name -> tensor as in a file, and returns name -> tensor under the model's names. Tensors that are known not
to be used by the model are dropped; unknown ones keep their names, so that `fit` reports them.
"""

import re

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

IMAGE_TOWER = "bridgetower.vision_model.visual."
TEXT_TOWER = "bridgetower.text_model."
POSITIONS = f"{IMAGE_TOWER}embeddings.position_embedding.weight"
WORDS = f"{TEXT_TOWER}embeddings.word_embeddings.weight"
"""Prefixes of the towers, and the names of the image tower's position table and the text tower's word embeddings."""

_OPENAI = (
    (r"^(vit_model\.)?visual\.", IMAGE_TOWER),
    (r"visual\.class_embedding$", "visual.embeddings.class_embedding"),
    (r"visual\.conv1\.", "visual.embeddings.patch_embedding."),
    (r"visual\.positional_embedding$", "visual.embeddings.position_embedding.weight"),
)
_CLIP = (
    (r"^(vision_model\.)?", IMAGE_TOWER),
    (r"visual\.pre_layrnorm\.", "visual.ln_pre."),  # Hugging Face's spelling
    (r"visual\.post_layernorm\.", "visual.ln_post."),
    (r"visual\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
_MICROSOFT = (
    *_OPENAI,
    (r"^text_transformer\.", TEXT_TOWER),
    (r"^(cross_modal_|token_type_embeddings\.)", r"bridgetower.\1"),
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
        return _converted(theirs, _OPENAI_UNUSED, _OPENAI)
    return _joined(_converted(theirs, _CLIP_UNUSED, _CLIP))


def text_tower(theirs: Tensors) -> Tensors:
    """RoBERTa, with or without one of its heads; pooler and vocabulary head are dropped."""
    return _converted(theirs, _ROBERTA_UNUSED, ((r"^(roberta\.)?", TEXT_TOWER),))


def whole_model(theirs: Tensors) -> Tensors:
    """A BridgeTower: Microsoft's, or in the format of the Hugging Face classes, as ours are. The text pooler is dropped."""
    if any(name.startswith("vit_model.visual.") for name in theirs):
        ours = _converted(theirs, _MICROSOFT_UNUSED, _MICROSOFT)
        if "temperature" in ours:
            ours["logit_scale"] = -ours.pop("temperature").float().log()
        return ours
    if not any(name.startswith("bridgetower.") for name in theirs):
        theirs = {f"bridgetower.{name}": tensor for name, tensor in theirs.items()}  # saved by BridgeTowerModel
    return _converted(theirs, _HUGGING_FACE_UNUSED, ())


def _converted(tensors: Tensors, unused: str, rules: tuple[tuple[str, str], ...]) -> Tensors:
    """All but the tensors whose names begin as `unused`, renamed by each rule, (pattern, replacement), in turn."""
    kept = {}
    for name, tensor in tensors.items():
        if not re.match(unused, name):
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            kept[name] = tensor
    return kept


def _joined(tensors: Tensors) -> Tensors:
    """Join separate projections of query, key and value into one."""
    joined = dict(tensors)
    for name in tensors:
        stem, _, kind = name.partition(".attn.q_proj.")
        parts = [f"{stem}.attn.{letter}_proj.{kind}" for letter in "qkv"]
        shapes = [tensors[part].shape for part in parts if part in tensors]
        if len(shapes) == 3 and len(shapes[0]) and len(set(shapes)) == 1:
            joined[f"{stem}.attn.in_proj_{kind}"] = torch.cat([joined.pop(part) for part in parts])
    return joined
