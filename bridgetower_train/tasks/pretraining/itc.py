"""Image-text contrast (ITC): which image belongs to which text, among those of many pairs, of all ranks if need be.

Shapes: B local samples, b of them at once, C samples that these are compared with, K kinds of keys, E width of the embeddings.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bridgetower_train.model.bridgetower import BridgeTower, ImageStates
from bridgetower_train.model.precision import no_autocast
from bridgetower_train.tasks.gather import all_gather, rank, world_size

_ONE_WAY = (("text", "image"), ("text", "cross"), ("image", "cross"))

TERMS = {
    "hf": _ONE_WAY,
    "symmetric": (*_ONE_WAY, *((key, query) for query, key in _ONE_WAY)),
    "ms": (("text", "image"), ("image", "text")),
}
"""Form -> its terms, each (query, key): the query's embedding must find its key among those of the others."""

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
"""Initial value of the learned `logit_scale`, the logarithm of the factor of the logits."""

LOGIT_SCALE_RANGE = (math.log(1 / 0.5), math.log(1 / 0.001))
"""Bounds of `logit_scale`: temperatures from 0.5 down to 0.001."""

MASKED_LOGIT = -1e4
"""Logit of a column that is not a negative: finite, and far below all others (at most 1000 in size)."""

BLOCK_LOGITS = 1 << 21
"""Most logits of a term in memory at once, 8 MB. More are computed in blocks of rows, and each block again in the backward
pass, so that memory does not grow with local rows x columns."""


def clamped_logit_scale(logit_scale: Tensor) -> Tensor:
    """exp of the learned `logit_scale` clamped to LOGIT_SCALE_RANGE; its gradient is as if it were not (see Task.bounds)."""
    return (logit_scale.clamp(*LOGIT_SCALE_RANGE).detach() + (logit_scale - logit_scale.detach())).exp()


def embed_text(model: BridgeTower, cls_BD: Tensor) -> Tensor:
    """`TextStates.cls` -> contrastive embeddings (B, E) of length 1."""
    return F.normalize(model.head("itc_text_head")(cls_BD), dim=-1)


def embed_image(model: BridgeTower, image: ImageStates, form: str) -> Tensor:
    """B images -> contrastive embeddings (B, E) of length 1; form `ms` reads the tower's output, the others its bridged state."""
    return F.normalize(model.head("itc_image_head")(image.cls if form == "ms" else image.bridged[-1][:, 0]), dim=-1)


def embed_cross(model: BridgeTower, pooled_B2D: Tensor) -> Tensor:
    """`Fused.pooled` of aligned pairs -> contrastive embeddings (B, E) of length 1."""
    return F.normalize(model.head("itc_cross_modal_head")(pooled_B2D), dim=-1)


def itc_logits(queries_BE: Tensor, keys_CE: Tensor, logit_scale: Tensor) -> Tensor:
    """Similarities (B, C) times the logit scale."""
    with no_autocast(queries_BE):
        return clamped_logit_scale(logit_scale) * (queries_BE @ keys_CE.T)


def itc_loss(
    embeddings: dict[str, Tensor],
    logit_scale: Tensor,
    image_id_B: Tensor,
    text_id_B: Tensor,
    form: str,
    same_image: str = "exclude",
    among: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(mean cross entropy of the form's terms, texts whose nearest image is right), each summed over the local samples.

    `embeddings` has `text`, `image` and, except for form `ms`, `cross`, each (B, E) of length 1. Every `among` consecutive rows
    of those of all ranks are compared with each other, all where it is None. Rows of the same image or the same text are not
    negatives, and count as right if nearest. With `same_image` = `positive`, rows of the same image are as right as the row's
    own: the target is uniform over them.
    """
    B = len(image_id_B)
    begin = rank() * B
    among = among or world_size() * B
    keys_BKE = torch.stack([embeddings[key] for key in _keys(form)], dim=1)
    ids_B2 = torch.stack([image_id_B, text_id_B], dim=1)
    # The fewest columns, the same number on all ranks, that hold whole groups and these rows.
    window = math.lcm(among, B)
    if window > B:
        first = begin - begin % window
        keys_CKE, ids_C2 = (all_gather(x)[first : first + window] for x in (keys_BKE, ids_B2))
        begin -= first
    else:
        keys_CKE, ids_C2, begin = keys_BKE, ids_B2, 0
    keys = dict(zip(_keys(form), keys_CKE.unbind(1), strict=True))
    own_B = begin + torch.arange(B, device=ids_B2.device)
    rows = max(1, BLOCK_LOGITS // window)
    if rows >= B:
        return _compare(embeddings, keys, logit_scale, ids_B2, ids_C2, own_B, among, form, same_image)
    blocks = []
    for start in range(0, B, rows):
        block = slice(start, start + rows)
        own_b = {name: value[block] for name, value in embeddings.items()}
        arguments = (own_b, keys, logit_scale, ids_B2[block], ids_C2, own_B[block], among, form, same_image)
        blocks.append(checkpoint(_compare, *arguments, use_reentrant=False, preserve_rng_state=False))
    losses, right = zip(*blocks, strict=True)
    return torch.stack(losses).sum(), torch.stack(right).sum()


def _keys(form: str) -> list[str]:
    """The embeddings that others are compared with."""
    return sorted({key for _, key in TERMS[form]})


def _compare(
    queries: dict[str, Tensor],
    keys: dict[str, Tensor],
    logit_scale: Tensor,
    ids_b2: Tensor,
    ids_C2: Tensor,
    own_b: Tensor,
    among: int,
    form: str,
    same_image: str,
) -> tuple[Tensor, Tensor]:
    """`itc_loss` of b local rows, whose own columns are `own_b`, against C columns."""
    columns_C = torch.arange(len(ids_C2), device=ids_C2.device)
    equal_bC2 = ids_b2[:, None] == ids_C2
    same_bC = equal_bC2.any(dim=-1)
    right_bC = equal_bC2[..., 0] if same_image == "positive" else own_b[:, None] == columns_C
    logits = {(query, key): itc_logits(queries[query], keys[key], logit_scale) for query, key in TERMS[form]}
    if among < len(ids_C2):
        apart_bC = (own_b // among)[:, None] != columns_C // among
        same_bC, right_bC = same_bC & ~apart_bC, right_bC & ~apart_bC
        logits = {terms: logits_bC.masked_fill(apart_bC, MASKED_LOGIT) for terms, logits_bC in logits.items()}
    excluded_bC = same_bC & ~right_bC
    masked = [logits_bC.masked_fill(excluded_bC, MASKED_LOGIT) for logits_bC in logits.values()]
    if same_image == "positive":
        sums = [(right_bC * -logits_bC.log_softmax(dim=-1)).sum(dim=-1) for logits_bC in masked]
        losses = [(sum_b / right_bC.sum(dim=-1)).sum() for sum_b in sums]
    else:
        losses = [F.cross_entropy(logits_bC, own_b, reduction="sum") for logits_bC in masked]
    nearest_b1 = logits["text", "image"].argmax(dim=-1, keepdim=True)
    return torch.stack(losses).mean(), same_bC.gather(1, nearest_b1).sum()
