"""Image-text matching (ITM): is this the image that the text describes?

Shapes: B samples; R pairs: each text with its own image, then each with another, and with hard negatives then each image with
another text.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.tasks.pretraining.itc import MASKED_LOGIT


def itm_loss(logits_R2: Tensor, negatives: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(cross entropy, correct predictions), each summed over the pairs; class 1 means that text and image match.

    Rows: the aligned pairs, then for each of `negatives` (B,) the mismatched ones. A mismatched pair does not count if its
    negative is the sample's own row, which it is if there was no other.
    """
    own_B = torch.arange(len(negatives[0]), device=logits_R2.device)
    labels_R = torch.cat([torch.ones_like(own_B), *(torch.zeros_like(own_B) for _ in negatives)])
    counts_R = torch.cat([torch.ones_like(own_B), *((negative_B != own_B).long() for negative_B in negatives)])
    losses_R = F.cross_entropy(logits_R2, labels_R, reduction="none")
    return (losses_R * counts_R).sum(), ((logits_R2.argmax(dim=-1) == labels_R) * counts_R).sum()


def others(image_id_B: Tensor, text_id_B: Tensor) -> Tensor:
    """bool (B, B), symmetric: whether the text of a row and the image of a column do not belong together."""
    return (image_id_B[:, None] != image_id_B) & (text_id_B[:, None] != text_id_B)


def hard_negatives(similarity_BB: Tensor, other_BB: Tensor, hard_B: Tensor) -> Tensor:
    """For each row a column drawn from softmax(similarity) among its `others`; uniformly where it is not yet `hard_B`.

    Its own row if there is no other. As in ALBEF (Li et al., 2021), but drawn as the largest of logit + Gumbel noise:
    torch.multinomial would fail for a similarity that is not finite, and end the run.
    """
    own_B = torch.arange(len(other_BB), device=other_BB.device)
    noise_BB = -torch.log(-torch.log(torch.rand_like(similarity_BB)))
    weight_BB = torch.where(hard_B[:, None], similarity_BB, 0.0).masked_fill(~other_BB, MASKED_LOGIT)
    return torch.where(other_BB.any(dim=-1), (weight_BB + noise_BB).argmax(dim=-1), own_B)
