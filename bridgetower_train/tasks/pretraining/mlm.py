"""Masked language modelling.

Shapes: B texts, M masked places per text, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.data.batch import IGNORE
from bridgetower_train.model.precision import at_least_fp32


def mlm_loss(logits_BMV: Tensor, labels_BM: Tensor) -> tuple[Tensor, Tensor]:
    """(cross entropy, right predictions), each summed over the masked tokens: places labelled IGNORE do not count."""
    logits, labels = logits_BMV.flatten(0, 1), labels_BM.flatten()
    loss = F.cross_entropy(at_least_fp32(logits), labels, ignore_index=IGNORE, reduction="sum")
    return loss, (logits.argmax(dim=-1) == labels).sum()
