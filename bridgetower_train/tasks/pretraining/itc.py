"""Image-text contrast (ITC): which image belongs to which text, among the batch of all ranks.

Shapes: B local samples, b of them at once, G samples of all ranks, E width of the embeddings.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bridgetower_train.model.bridgetower import BridgeTower, ImageStates
from bridgetower_train.model.precision import no_autocast
from bridgetower_train.tasks.gather import all_gather, rank

_ONE_WAY = (("text", "image"), ("text", "cross"), ("image", "cross"))

TERMS = {
    "hf": _ONE_WAY,
    "symmetric": (*_ONE_WAY, *((key, query) for query, key in _ONE_WAY)),
    "ms": (("text", "image"), ("image", "text")),
}
"""Form -> its terms, each (query, key): the query's embedding must find its key among those of all ranks."""

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
"""Initial value of the learned `logit_scale`, the logarithm of the factor of the logits."""

LOGIT_SCALE_RANGE = (math.log(1 / 0.5), math.log(1 / 0.001))
"""Bounds of `logit_scale`: temperatures from 0.5 down to 0.001."""

MASKED_LOGIT = -1e4
"""Logit of a column that is not a negative: finite, and far below all others (at most 1000 in size)."""

BLOCK_LOGITS = 1 << 21
"""Most logits of a term in memory at once, 8 MB. More are computed in blocks of rows, and each block again in the backward
pass, so that memory does not grow with local rows x columns of all ranks."""


class _ClampFromInside(torch.autograd.Function):
    """Clamp to LOGIT_SCALE_RANGE. Beyond a bound only gradients that lead back into the range pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(*LOGIT_SCALE_RANGE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,), (grad,) = ctx.saved_tensors, grads
        low, high = LOGIT_SCALE_RANGE
        # An update goes against the gradient: a negative gradient increases x.
        outward = ((x >= high) & (grad < 0)) | ((x <= low) & (grad > 0))
        return grad.masked_fill(outward, 0.0)


def clamped_logit_scale(logit_scale: Tensor) -> Tensor:
    """exp of the learned `logit_scale` clamped to LOGIT_SCALE_RANGE; from beyond, its gradient leads back into the range."""
    clamped: Tensor = _ClampFromInside.apply(logit_scale)  # type: ignore[no-untyped-call]
    return clamped.exp()


def embed_text(model: BridgeTower, cls_BD: Tensor) -> Tensor:
    """`TextStates.cls` -> contrastive embeddings (B, E) of length 1."""
    return F.normalize(model.head("itc_text_head")(cls_BD), dim=-1)


def embed_image(model: BridgeTower, image: ImageStates, form: str) -> Tensor:
    """B images -> contrastive embeddings (B, E) of length 1; form `ms` reads the tower's output, the others its bridged state."""
    return F.normalize(model.head("itc_image_head")(image.cls if form == "ms" else image.bridged[-1][:, 0]), dim=-1)


def embed_cross(model: BridgeTower, pooled_B2D: Tensor) -> Tensor:
    """`Fused.pooled` of aligned pairs -> contrastive embeddings (B, E) of length 1."""
    return F.normalize(model.head("itc_cross_modal_head")(pooled_B2D), dim=-1)


def itc_logits(queries_BE: Tensor, keys_GE: Tensor, logit_scale: Tensor) -> Tensor:
    """Similarities (B, G) times the logit scale."""
    with no_autocast(queries_BE):
        return clamped_logit_scale(logit_scale) * (queries_BE @ keys_GE.T)


def itc_loss(
    embeddings: dict[str, Tensor],
    logit_scale: Tensor,
    image_id_B: Tensor,
    text_id_B: Tensor,
    form: str,
    same_image: str = "exclude",
) -> tuple[Tensor, Tensor]:
    """(mean cross entropy of the form's terms, texts whose nearest image is right), each summed over the local samples.

    `embeddings` has `text`, `image` and, except for form `ms`, `cross`, each (B, E) of length 1. Local rows are compared with
    those of all ranks. Rows of the same image or the same text are not negatives, and count as right if nearest. With
    `same_image` = `positive`, rows of the same image are as right as the row's own: the target is uniform over them.
    """
    keys = sorted({key for _, key in TERMS[form]})
    gathered = dict(zip(keys, all_gather(torch.stack([embeddings[key] for key in keys], dim=1)).unbind(1), strict=True))
    ids_B2 = torch.stack([image_id_B, text_id_B], dim=1)
    ids_G2 = all_gather(ids_B2)
    target_B = rank() * len(image_id_B) + torch.arange(len(image_id_B), device=image_id_B.device)
    rows = max(1, BLOCK_LOGITS // len(ids_G2))
    if rows >= len(image_id_B):
        return _compare(embeddings, gathered, logit_scale, ids_B2, ids_G2, target_B, form, same_image)
    blocks = []
    for begin in range(0, len(image_id_B), rows):
        block = slice(begin, begin + rows)
        own_b = {name: value[block] for name, value in embeddings.items()}
        arguments = (own_b, gathered, logit_scale, ids_B2[block], ids_G2, target_B[block], form, same_image)
        blocks.append(checkpoint(_compare, *arguments, use_reentrant=False, preserve_rng_state=False))
    losses, right = zip(*blocks, strict=True)
    return torch.stack(losses).sum(), torch.stack(right).sum()


def _compare(
    embeddings: dict[str, Tensor],
    gathered: dict[str, Tensor],
    logit_scale: Tensor,
    ids_b2: Tensor,
    ids_G2: Tensor,
    own_b: Tensor,
    form: str,
    same_image: str,
) -> tuple[Tensor, Tensor]:
    """`itc_loss` of b local rows, whose own columns are `own_b`, against all columns."""
    equal_bG2 = ids_b2[:, None] == ids_G2
    same_bG = equal_bG2.any(dim=-1)
    own_bG = own_b[:, None] == torch.arange(len(ids_G2), device=ids_G2.device)
    right_bG = equal_bG2[..., 0] if same_image == "positive" else own_bG
    excluded_bG = same_bG & ~right_bG
    logits = {(query, key): itc_logits(embeddings[query], gathered[key], logit_scale) for query, key in TERMS[form]}
    masked = [logits_bG.masked_fill(excluded_bG, MASKED_LOGIT) for logits_bG in logits.values()]
    if same_image == "positive":
        sums = [(right_bG * -logits_bG.log_softmax(dim=-1)).sum(dim=-1) for logits_bG in masked]
        losses = [(sum_b / right_bG.sum(dim=-1)).sum() for sum_b in sums]
    else:
        losses = [F.cross_entropy(logits_bG, own_b, reduction="sum") for logits_bG in masked]
    nearest_b1 = logits["text", "image"].argmax(dim=-1, keepdim=True)
    return torch.stack(losses).mean(), same_bG.gather(1, nearest_b1).sum()
