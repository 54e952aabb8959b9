"""Image-text matching: is this the image that the text describes?

Shapes: B texts, each once with its own image and once with another.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EXCLUDED = -1e4
"""Logit of what must not be drawn: finite, and far below any similarity (at most 1000 in size)."""


def itm_loss(aligned_B2: Tensor, mismatched_B2: Tensor, negative_B: Tensor) -> tuple[Tensor, Tensor]:
    """(cross entropy, right predictions), each summed over the pairs; class 1 means that text and image match.

    A mismatched pair whose image `negative_B` is the text's own, since there was no other, does not count.
    """
    own_B = torch.arange(len(negative_B), device=negative_B.device)
    logits = torch.cat([aligned_B2, mismatched_B2])
    labels = torch.cat([torch.ones_like(own_B), torch.zeros_like(own_B)])
    counts = torch.cat([torch.ones_like(own_B), (negative_B != own_B).long()])
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (losses * counts).sum(), ((logits.argmax(dim=-1) == labels) * counts).sum()


def hard_negatives(similarity_BB: Tensor, image_id_B: Tensor) -> Tensor:
    """For each text (row) an image (column) drawn from softmax(similarity) over the images with another id (ALBEF, Li et al., 2021).

    The own row where there is no such image. Drawn as the largest of logit + Gumbel noise: unlike torch.multinomial this checks
    nothing on the host or the device, so that a similarity that is not finite does not end the run.
    """
    own_B = torch.arange(len(image_id_B), device=image_id_B.device)
    other_BB = image_id_B[:, None] != image_id_B[None, :]
    noise_BB = -torch.log(-torch.log(torch.rand_like(similarity_BB)))
    drawn_B = (similarity_BB.masked_fill(~other_BB, EXCLUDED) + noise_BB).argmax(dim=-1)
    return torch.where(other_BB.any(dim=-1), drawn_B, own_B)
