"""Masked words: what does the model read from the picture, and what could it have guessed without?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bridgetower_train.data.text import Text
from bridgetower_train.evaluation.heldout import HeldOut
from bridgetower_train.evaluation.predictor import Predictor


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
    picture: Tensor
    """int64 (T,): the picture that the text describes."""


def probe_words(text: Text, held_out: HeldOut, words: list[str], max_len: int) -> Probes:
    """Every occurrence of a word of `words` in the pictures' first captions, masked one at a time.

    A word counts where it is a single token, with or without a space before it.
    """
    forms = (text.tokenizer.encode(form, add_special_tokens=False).ids for word in words for form in (word, f" {word}"))
    tokens = {ids[0] for ids in forms if len(ids) == 1}
    ids, mask = text.encode([captions[0] for captions in held_out.captions], max_len)
    picture, position = torch.nonzero(torch.isin(ids, torch.tensor(sorted(tokens))), as_tuple=True)
    answer = ids[picture, position]
    masked = ids[picture].clone()
    masked[torch.arange(len(masked)), position] = text.mask
    return Probes(masked, mask[picture], position, answer, picture)


def probe_accuracy(
    predictor: Predictor, held_out: HeldOut, probes: Probes, blank: bool = False, batch: int = 64
) -> float:
    """Share of masked words that the model gets right out of its whole vocabulary; `blank` shows a grey picture instead."""
    right = 0
    for start in range(0, len(probes.answer), batch):
        part = slice(start, start + batch)
        pixels = held_out.pixels[probes.picture[part]]
        if blank:
            pixels = torch.full_like(pixels, 127)
        guess = predictor.fill(pixels, probes.ids[part], probes.mask[part], probes.position[part]).argmax(-1)
        right += int((guess == probes.answer[part]).sum())
    return right / len(probes.answer)
