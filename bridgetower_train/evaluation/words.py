"""Words that a corpus names, such as its colours, masked one at a time: does the model read them from the image?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.tasks.pretraining.predictor import Predictor


def blanked(pixels_B3SS: Tensor) -> Tensor:
    """Grey images."""
    return torch.full_like(pixels_B3SS, 127)


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


def probe_words(text: CaptionTokenizer, images: EvalSet, words: list[str], max_len: int) -> Probes:
    """Every occurrence of a word of `words` in the images' first captions, masked one at a time.

    A word counts where it is a single token, with or without a space before it.
    """
    forms = (text.ids(form) for word in words for form in (word, f" {word}"))
    tokens = {ids[0] for ids in forms if len(ids) == 1}
    ids, mask = text.encode(images.first, max_len)
    image, position = torch.nonzero(torch.isin(ids, torch.tensor(sorted(tokens))), as_tuple=True)
    answer = ids[image, position]
    masked = ids[image].clone()
    masked[torch.arange(len(masked)), position] = text.mask
    return Probes(masked, mask[image], position, answer, image)


def probe_accuracy(
    predictor: Predictor, images: EvalSet, probes: Probes, blank: bool = False, batch: int = 64
) -> float:
    """Share of masked words that the model gets right out of its whole vocabulary; `blank`: with a grey image instead."""
    right = 0
    for start in range(0, len(probes.answer), batch):
        part = slice(start, start + batch)
        pixels = images.pixels[probes.image[part]]
        if blank:
            pixels = blanked(pixels)
        guess = predictor.fill(pixels, probes.ids[part], probes.mask[part], probes.position[part]).argmax(-1)
        right += int((guess == probes.answer[part]).sum())
    return right / len(probes.answer)
