"""Masked words: what does the model read from the image, and what could it have guessed without?"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bridgetower_train.config import at_least
from bridgetower_train.data.shards import Corpus
from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import DataError
from bridgetower_train.evaluation.base import Evaluation, OpenModel, Picture, Result, SampledOptions
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.evaluation.protocol import of_sample
from bridgetower_train.evaluation.words import blanked, probe_accuracy, probe_words
from bridgetower_train.tasks.pretraining.masking import IGNORE, mask_tokens, max_masked_tokens
from bridgetower_train.tasks.pretraining.predictor import Predictor


@dataclass(frozen=True)
class MaskedLMOptions(SampledOptions):
    """`bridgetower eval masked_lm`: the first caption of each image."""

    seed: int = 0
    """Seed of the masks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("seed", self.seed, 0)


SHOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda pixels: pixels,
    ", image blanked": blanked,
    ", image swapped": lambda pixels: pixels.roll(-1, 0),
}
"""What is shown beside a caption, as the end of a figure's name: its own image, grey, or the next caption's image."""


def masked_lm(
    predictor: Predictor, images: EvalSet, probability: float, seed: int = 0, batch: int = 64
) -> dict[str, float]:
    """`masked tokens`, and accuracy and perplexity over them, with each of the images of SHOWN.

    Masked are the images' first captions, as in training (BERT's masking) and the same for the same seed. DataError where
    no token is masked.
    """
    text, max_len = predictor.text, predictor.model.config.max_text_len
    ids, mask = text.encode(images.first, max_len)
    rows = np.arange(len(images))
    masked, places, labels = mask_tokens(text, ids, rows, seed, probability, max_masked_tokens(probability, max_len))
    count = int((labels != IGNORE).sum())
    if not count:
        raise DataError("none of the captions' tokens is masked; take more samples")
    figures = {"masked tokens": float(count)}
    for name, show in SHOWN.items():
        pixels, right, loss = show(images.pixels), 0, 0.0
        for part in images.batches(batch):
            logits = predictor.fill_all(pixels[part], masked[part], mask[part], places[part]).flatten(0, 1)
            truth = labels[part].flatten()
            loss += float(F.cross_entropy(logits.double(), truth, ignore_index=IGNORE, reduction="sum"))
            right += int((logits.argmax(-1) == truth).sum())
        figures |= {f"accuracy{name}": right / count, f"perplexity{name}": math.exp(loss / count)}
    return figures


def _run(model: OpenModel, corpus: Corpus, options: MaskedLMOptions, ranks: Ranks) -> Result:
    images = EvalSet(corpus, model.config, options.samples, kind=options.kind).load()
    probability = model.config.objective.mlm_probability
    protocol = of_sample(model, images, "the first of each image")
    protocol["masked"] = f"{probability:.0%} of the tokens, 80/10/10 as in training, seed {options.seed}"
    return Result(masked_lm(Predictor(*model), images, probability, options.seed), protocol)


def _brief(model: OpenModel, images: EvalSet) -> Result:
    """The words that the corpus names, if it does."""
    words = images.corpus.manifest.extra.get("probe_words", [])
    if not words:
        return Result({})
    predictor = Predictor(*model)
    probes = probe_words(model.tokenizer, images, words, model.config.model.max_text_len)
    found = [probe_accuracy(predictor, images, probes, blank) for blank in (False, True)]
    named = f"{', '.join(sorted(words)[:5])}, ...: {len(words)} words that the corpus names, masked one at a time"
    return Result(
        {"probe word accuracy": found[0], "probe word accuracy, image blanked": found[1]}, {"probe words": named}
    )


def _pictures(model: OpenModel, images: EvalSet, count: int = 8) -> list[Picture]:
    """Each with its caption, a word masked, and what the model takes it for."""
    text, predictor = model.tokenizer, Predictor(*model)
    ids, mask = text.encode(images.first[:count], model.config.model.max_text_len)
    lengths = (~torch.from_numpy(text.special)[ids]).sum(1)
    place = 1 + torch.arange(len(ids)) % lengths.clamp(min=1)  # after <s>
    rows = torch.arange(len(ids))
    truth = ids[rows, place]
    masked = ids.clone()
    masked[rows, place] = text.mask
    guess = predictor.fill(images.pixels[: len(ids)], masked, mask, place).argmax(-1)
    return [
        Picture(
            images.pixels[row],
            f"{text.decode(masked[row])}: {text.piece(int(guess[row]))}, is {text.piece(int(truth[row]))}",
        )
        for row in range(len(ids))
    ]


MASKED_LM = Evaluation("masked words", ("mlm_score",), MaskedLMOptions, _run, _brief, pictures=_pictures)
