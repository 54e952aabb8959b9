"""Image-text matching (ITM): is this the image that the text describes?

Shapes: B texts; R = 2 B pairs: each text with its own image, then each with another.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.tasks.pretraining.itc import MASKED_LOGIT


def itm_loss(logits_R2: Tensor, negative_B: Tensor) -> tuple[Tensor, Tensor]:
    """(cross entropy, correct predictions), each summed over the pairs; class 1 means that text and image match.

    Rows: the aligned pairs, then the mismatched ones. A mismatched pair does not count if its image `negative_B` is the
    text's own, which it is if there was no other.
    """
    own_B = torch.arange(len(negative_B), device=negative_B.device)
    labels_R = torch.cat([torch.ones_like(own_B), torch.zeros_like(own_B)])
    counts_R = torch.cat([torch.ones_like(own_B), (negative_B != own_B).long()])
    losses_R = F.cross_entropy(logits_R2, labels_R, reduction="none")
    return (losses_R * counts_R).sum(), ((logits_R2.argmax(dim=-1) == labels_R) * counts_R).sum()


def hard_negatives(similarity_BB: Tensor, image_id_B: Tensor) -> Tensor:
    """For each text (row) an image (column) drawn from softmax(similarity) over the images with another id.

    Its own row if there is no such image. As in ALBEF (Li et al., 2021), but drawn as the largest of logit + Gumbel noise:
    torch.multinomial would fail for a similarity that is not finite, and end the run.
    """
    own_B = torch.arange(len(image_id_B), device=image_id_B.device)
    other_BB = image_id_B[:, None] != image_id_B
    noise_BB = -torch.log(-torch.log(torch.rand_like(similarity_BB)))
    drawn_B = (similarity_BB.masked_fill(~other_BB, MASKED_LOGIT) + noise_BB).argmax(dim=-1)
    return torch.where(other_BB.any(dim=-1), drawn_B, own_B)
