"""Image-text matching: does the model tell a picture's caption from another picture's?"""

import torch

from bridgetower_train.evaluation.heldout import HeldOut
from bridgetower_train.evaluation.predictor import Predictor


def matching_accuracy(predictor: Predictor, held_out: HeldOut, batch: int = 64) -> float:
    """Share of right answers over each picture with its own first caption and with that of the next picture."""
    right = 0
    own = [captions[0] for captions in held_out.captions]
    others = own[1:] + own[:1]
    pairs = 0
    for part in held_out.batches(batch):
        different = torch.tensor([a != b for a, b in zip(own[part], others[part], strict=True)])
        positive = predictor.match(held_out.pixels[part], own[part])
        negative = predictor.match(held_out.pixels[part], others[part])
        right += int((positive > 0.5).sum() + ((negative <= 0.5) & different).sum())
        pairs += len(different) + int(different.sum())
    return right / pairs
