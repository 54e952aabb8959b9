"""Which pairs the configured losses read. A pair is an image and a text that the fusion encoder fuses.

Shapes: B images, B texts per view, P pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bridgetower_train.config import ObjectiveConfig
from bridgetower_train.model.bridgetower import Pairs


@dataclass(frozen=True)
class PairKinds:
    """The views of texts, and the pairs, that an objective reads."""

    clean: bool
    """The clean view of each text."""
    masked: bool
    """The masked view of each text, fused with its image: MLM."""
    aligned: bool
    """The clean text fused with its image: ITM's positives and the cross-modal embedding of ITC."""
    mismatched: int
    """ITM's negatives per sample: the clean text fused with another image, and if they are hard the image with another text."""

    @staticmethod
    def of(objective: ObjectiveConfig) -> "PairKinds":
        """Those of `objective`."""
        itm, itc = objective.itm > 0, objective.itc > 0
        return PairKinds(
            clean=itm or itc,
            masked=objective.mlm > 0,
            aligned=itm or (itc and objective.itc_form != "ms"),
            mismatched=itm * (2 if objective.itm_negatives == "hard" else 1),
        )

    @property
    def pooled(self) -> int:
        """Fused pairs per sample that are read at the first token of both streams."""
        return self.aligned + self.mismatched


def joint_pairs(kinds: PairKinds, negatives: list[Tensor], positions_BM: Tensor) -> Pairs:
    """The pairs of a step, in the order aligned, mismatched, masked.

    `negatives`: the other image of each text (B,), and if `kinds` has two the other text of each image (B,).
    Texts are the clean views and then the masked views, as far as `kinds` has them, B rows each.
    """
    B = len(positions_BM)
    own_B = torch.arange(B, device=positions_BM.device)
    rows = []
    if kinds.aligned:
        rows.append((own_B, own_B))
    rows += [(negative_B, own_B) for negative_B in negatives[:1]] + [
        (own_B, negative_B) for negative_B in negatives[1:]
    ]
    if kinds.masked:
        rows.append((own_B, own_B + B * kinds.clean))
    images, texts = zip(*rows, strict=True)
    positions: Tensor | None = positions_BM if kinds.masked else None
    return Pairs(torch.cat(images), torch.cat(texts), B * kinds.pooled, positions)
