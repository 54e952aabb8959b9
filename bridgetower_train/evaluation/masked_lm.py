"""Masked words: what does the model read from the image, and what could it have guessed without?"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import DataError
from bridgetower_train.evaluation.heldout import HeldOut
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.tasks.pretraining.masking import IGNORE, mask_tokens, max_masked_tokens


def blanked(pixels_B3SS: Tensor) -> Tensor:
    """Grey images."""
    return torch.full_like(pixels_B3SS, 127)


def swapped(pixels_B3SS: Tensor) -> Tensor:
    """The next caption's image for each."""
    return pixels_B3SS.roll(-1, 0)


@dataclass(frozen=True)
class Probes:
    """T texts with one word masked in each."""

    ids: Tensor
    """int64 (T, L), with the mask."""
    mask: Tensor
    """bool (T, L), True where a token is real."""
    position: Tensor
    """int64 (T,): where the mask stands."""
    answer: Tensor
    """int64 (T,): the token under it."""
    image: Tensor
    """int64 (T,): the image that the text describes."""


def probe_words(text: CaptionTokenizer, held_out: HeldOut, words: list[str], max_len: int) -> Probes:
    """Every occurrence of a word of `words` in the images' first captions, masked one at a time.

    A word counts where it is a single token, with or without a space before it.
    """
    forms = (text.tokenizer.encode(form, add_special_tokens=False).ids for word in words for form in (word, f" {word}"))
    tokens = {ids[0] for ids in forms if len(ids) == 1}
    ids, mask = text.encode([captions[0] for captions in held_out.captions], max_len)
    image, position = torch.nonzero(torch.isin(ids, torch.tensor(sorted(tokens))), as_tuple=True)
    answer = ids[image, position]
    masked = ids[image].clone()
    masked[torch.arange(len(masked)), position] = text.mask
    return Probes(masked, mask[image], position, answer, image)


def probe_accuracy(
    predictor: Predictor, held_out: HeldOut, probes: Probes, blank: bool = False, batch: int = 64
) -> float:
    """Share of masked words that the model gets right out of its whole vocabulary; `blank` shows a grey image instead."""
    right = 0
    for start in range(0, len(probes.answer), batch):
        part = slice(start, start + batch)
        pixels = held_out.pixels[probes.image[part]]
        if blank:
            pixels = blanked(pixels)
        guess = predictor.fill(pixels, probes.ids[part], probes.mask[part], probes.position[part]).argmax(-1)
        right += int((guess == probes.answer[part]).sum())
    return right / len(probes.answer)


SHOWN = {"": lambda pixels: pixels, ", image blanked": blanked, ", image swapped": swapped}
"""What is shown beside a caption, as the end of a figure's name: its own image, grey, or another caption's image."""


def masked_lm(
    predictor: Predictor, held_out: HeldOut, probability: float, seed: int = 0, batch: int = 64
) -> dict[str, float]:
    """`masked tokens`, and accuracy and perplexity over them, with each of the images of SHOWN.

    Masked are the images' first captions, as in training (BERT's masking) and the same for the same seed. DataError where
    no token came to be masked.
    """
    text, max_len = predictor.text, predictor.model.config.max_text_len
    ids, mask = text.encode([captions[0] for captions in held_out.captions], max_len)
    rows = np.arange(len(held_out))
    masked, places, labels = mask_tokens(text, ids, rows, seed, probability, max_masked_tokens(probability, max_len))
    count = int((labels != IGNORE).sum())
    if not count:
        raise DataError("no token of the captions came to be masked; take more samples")
    figures = {"masked tokens": float(count)}
    for name, show in SHOWN.items():
        pixels, right, loss = show(held_out.pixels), 0, 0.0
        for part in held_out.batches(batch):
            logits = predictor.fill_all(pixels[part], masked[part], mask[part], places[part]).flatten(0, 1)
            truth = labels[part].flatten()
            loss += float(F.cross_entropy(logits.double(), truth, ignore_index=IGNORE, reduction="sum"))
            right += int((logits.argmax(-1) == truth).sum())
        figures |= {f"accuracy{name}": right / count, f"perplexity{name}": math.exp(loss / count)}
    return figures
