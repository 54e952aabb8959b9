"""Image-text matching: does the model tell an image's caption from another image's, and is its confidence justified?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bridgetower_train.data.shards import Corpus
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.base import Evaluation, OpenModel, Result, SampledOptions
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.evaluation.protocol import of_sample, read_evaluations
from bridgetower_train.tasks.pretraining.predictor import Predictor
from bridgetower_train.weights.saved import SavedModel, calibration_errors

BINS = 10
"""Equal parts of [0, 1] over which calibration is measured."""


@dataclass(frozen=True)
class MatchingOptions(SampledOptions):
    """`bridgetower eval matching`: each image with its first caption, and with that of the next image."""


def match_scores(predictor: Predictor, images: EvalSet, batch: int = 64) -> tuple[Tensor, Tensor]:
    """(probability of a match, whether it is one) of each image with its own first caption and with that of the next.

    A next caption that is equal is not a mismatch, and is left out.
    """
    own = images.first
    others = own[1:] + own[:1]
    scores, labels = [], []
    for part in images.batches(batch):
        different = torch.tensor([a != b for a, b in zip(own[part], others[part], strict=True)])
        positive = predictor.match(images.pixels[part], own[part])
        negative = predictor.match(images.pixels[part], others[part])[different]
        scores += [positive, negative]
        labels += [torch.ones(len(positive), dtype=torch.bool), torch.zeros(len(negative), dtype=torch.bool)]
    return torch.cat(scores), torch.cat(labels)


def matching_accuracy(predictor: Predictor, images: EvalSet, batch: int = 64) -> float:
    """Share of pairs (see `match_scores`) that the model judges right; a probability of one half is not a match."""
    score, label = match_scores(predictor, images, batch)
    return float(((score > 0.5) == label).float().mean())


def matching(score: Tensor, label: Tensor) -> dict[str, float]:
    """Pairs, accuracy, AUC and expected calibration error of the probabilities, against the truth."""
    p, truth = score.numpy().astype(np.float64), label.numpy()
    return {
        "matching pairs": float(truth.sum()),
        "mismatching pairs": float((~truth).sum()),
        "accuracy": float(((p > 0.5) == truth).mean()),
        "AUC": area_under_curve(p, truth),
        "ECE": calibration_error(p, truth),
    }


def area_under_curve(score: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    """Probability that a match scores above a mismatch, equal scores counted as half; NaN without one of the two."""
    order = np.sort(score[~truth])
    below, not_above = (np.searchsorted(order, score[truth], side) for side in ("left", "right"))
    pairs = len(order) * truth.sum()
    return float((below + not_above).sum() / (2 * pairs)) if pairs else float("nan")


def calibration_error(probability: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error (Naeini et al., 2015): how far the mean probability lies from the share of matches, on
    average over the pairs, within each of BINS."""
    number = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = np.bincount(number, probability, BINS) - np.bincount(number, truth, BINS)
    return float(np.abs(gaps).sum() / len(probability))


def calibrations(saved: SavedModel) -> dict[str, float]:
    """Corpus -> expected calibration error of this checkpoint, as `eval matching` found it here, or before the export."""
    kept = read_evaluations(Path(saved.source, "eval.json"))
    here = {
        str(entry.get("corpus")): entry["figures"].get("ECE")
        for entry in kept.values()
        if entry.get("evaluation") == MATCHING.title
        and (saved.run_dir is None or entry.get("checkpoint") == saved.name)
        and isinstance(entry.get("figures"), dict)
    }
    return {**saved.calibration, **calibration_errors(here)}


def calibration(saved: SavedModel) -> str:
    """How far a probability of a match can be trusted, in words, or how to find out."""
    found = [f"expected calibration error {error:.3f} on {corpus}" for corpus, error in calibrations(saved).items()]
    return "; ".join(found) or f"not measured; bridgetower eval matching run_dir={saved.source} measures it"


def _run(model: OpenModel, corpus: Corpus, options: MatchingOptions, ranks: Ranks) -> Result:
    images = EvalSet(corpus, model.config, options.samples, kind=options.kind).load()
    protocol = of_sample(model, images, "the first of each image, and that of the next image as the mismatch")
    protocol["calibration"] = f"{BINS} equal bins of the probability of a match"
    return Result(matching(*match_scores(Predictor(*model), images)), protocol)


def _brief(model: OpenModel, images: EvalSet) -> Result:
    return Result({"image-text matching accuracy": matching_accuracy(Predictor(*model), images)})


MATCHING = Evaluation("matching", ("itm_score",), MatchingOptions, _run, _brief)
