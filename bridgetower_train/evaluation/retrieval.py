"""Retrieval by the contrastive embeddings: does an image find its caption among others, and a caption its image?"""

import torch
from torch import Tensor

from bridgetower_train.evaluation.heldout import HeldOut
from bridgetower_train.evaluation.predictor import Predictor


def similarities(predictor: Predictor, held_out: HeldOut, batch: int = 64) -> Tensor:
    """Cosine similarity (B, B) of every image (rows) with the first caption of every image (columns)."""
    images, texts = [], []
    for part in held_out.batches(batch):
        images.append(predictor.embed_images(held_out.pixels[part]))
        texts.append(predictor.embed_texts([captions[0] for captions in held_out.captions[part]]))
    return torch.cat(images) @ torch.cat(texts).T


def recall(similarity_BB: Tensor, group: int = 128, k: int = 1) -> tuple[float, float]:
    """(image to text, text to image) recall at `k`, each among `group` candidates, averaged over the whole groups of B.

    Fewer than `group` rows form one group. An equal score counts against: a model that cannot tell finds nothing.
    """
    count = len(similarity_BB)
    group = min(group, count)
    hits = torch.zeros(2)
    for start in range(0, count - group + 1, group):
        part = similarity_BB[start : start + group, start : start + group]
        truth = part.diagonal()
        hits += torch.stack([((part >= truth[:, None]).sum(1) <= k).sum(), ((part >= truth).sum(0) <= k).sum()])
    image_to_text, text_to_image = (hits / (count // group * group)).tolist()
    return image_to_text, text_to_image
