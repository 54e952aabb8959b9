"""Labels: SNLI-VE, NLVR2, and a user's own classes.

Shapes: N texts, C labels.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bridgetower_train.data.shards import Corpus
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.base import Evaluation, Figures, OpenModel, Result
from bridgetower_train.evaluation.choices import (
    Choice,
    ChoiceOptions,
    brief,
    chosen_names,
    print_percent,
    result,
)
from bridgetower_train.evaluation.eval_set import EvalSet

MOST_CONFUSED = 20
"""Labels up to which it is told which is taken for which."""


@dataclass(frozen=True)
class SNLIVEOptions(ChoiceOptions):
    """`bridgetower eval snli_ve`, also under torchrun."""


@dataclass(frozen=True)
class NLVR2Options(ChoiceOptions):
    """`bridgetower eval nlvr2`, also under torchrun."""


@dataclass(frozen=True)
class ClassesOptions(ChoiceOptions):
    """`bridgetower eval classes`, also under torchrun."""


def label_figures(chosen: Sequence[Choice], names: Sequence[str]) -> Figures:
    """Accuracy over all, of the texts with each label, and which labels are taken for which, all in percent."""
    truth_N = np.array([choice.asked.truth for choice in chosen])
    best_N = np.array([choice.best for choice in chosen])
    there = np.unique(truth_N).tolist()
    figures: Figures = {"accuracy, %": 100 * float((truth_N == best_N).mean())}
    figures["accuracy by label, %"] = {
        names[label]: 100 * float((best_N[truth_N == label] == label).mean()) for label in there
    }
    if len(names) <= MOST_CONFUSED:
        for label in there:
            shares = np.bincount(best_N[truth_N == label], minlength=len(names)) / (truth_N == label).sum()
            figures[f"{names[label]}, taken for, %"] = dict(zip(names, (100 * shares).tolist(), strict=True))
    return figures


def nlvr2_figures(chosen: Sequence[Choice], names: Sequence[str]) -> Figures:
    """Accuracy, and the consistency: the share of sentences that are right with all their pairs of images, both in percent.

    An identifier such as `dev-850-0-1` is of pair 0 and sentence 1 in set 850.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for choice in chosen:
        split, number, _, sentence = (*str(choice.asked.id).split("-"), "", "", "", "")[:4]
        right[f"{split}-{number}-{sentence}"].append(choice.best == choice.asked.truth)
    consistent = np.mean([all(pairs) for pairs in right.values()])
    return {
        "accuracy, %": 100 * float(np.mean([one for pairs in right.values() for one in pairs])),
        "consistency, %": 100 * float(consistent),
    }


def several_figures(chosen: Sequence[Choice], names: Sequence[str]) -> Figures:
    """Of texts that have any number of labels: mean average precision and F1 of all labels together, texts of which all labels
    are right, and the average precision of each label, in percent."""
    truth_NC = np.zeros((len(chosen), len(names)), dtype=bool)
    for row, choice in enumerate(chosen):
        truth_NC[row, choice.asked.truth] = True
    logits_NC = np.array([choice.logits for choice in chosen])
    positive_NC = logits_NC > 0
    precisions = {
        name: 100 * average_precision(logits_NC[:, label], truth_NC[:, label])
        for label, name in enumerate(names)
        if truth_NC[:, label].any()
    }
    both = int((truth_NC & positive_NC).sum())
    return {
        "mean average precision, %": float(np.mean(list(precisions.values()))) if precisions else float("nan"),
        "F1, %": 200 * both / max(1, int(truth_NC.sum() + positive_NC.sum())),
        "all labels right, %": 100 * float((truth_NC == positive_NC).all(-1).mean()),
        "average precision by label, %": precisions,
    }


def average_precision(score_N: npt.NDArray[np.float32], truth_N: npt.NDArray[np.bool_]) -> float:
    """Mean over the right ones of the precision among all that score as high or higher."""
    not_below = len(score_N) - np.searchsorted(np.sort(score_N), score_N[truth_N], "left")
    right = truth_N.sum() - np.searchsorted(np.sort(score_N[truth_N]), score_N[truth_N], "left")
    return float((right / not_below).mean())


Counted = Callable[[Sequence[Choice], Sequence[str]], Figures]


def _submitted(choice: Choice, names: Sequence[str]) -> dict[str, Any]:
    truth = choice.asked.truth
    label = None if truth is None else [names[i] for i in truth] if isinstance(truth, list) else names[truth]
    return {"key": choice.asked.id, "label": label, "prediction": chosen_names(choice, names)}


def _counted(model: OpenModel, counted: Counted) -> Counted:
    return several_figures if model.config.classifier.several else counted


def _run(counted: Counted, model: OpenModel, corpus: Corpus, options: ChoiceOptions, ranks: Ranks) -> Result:
    found = result(model, corpus, options, ranks, _counted(model, counted), _submitted)
    shown = dict(model.task.recipe(model.config))
    return Result(
        found.figures, found.protocol | {part: shown[part] for part in ("text",) if part in shown}, found.examples
    )


def _brief(counted: Counted, model: OpenModel, images: EvalSet) -> Result:
    return brief(model, images, _counted(model, counted))


def _evaluation(title: str, head: str, options: type[ChoiceOptions], counted: Counted) -> Evaluation:
    return Evaluation(title, (head,), options, partial(_run, counted), partial(_brief, counted), show=print_percent)


SNLI_VE = _evaluation("SNLI-VE", "snli_classifier", SNLIVEOptions, label_figures)
NLVR2 = _evaluation("NLVR2", "nlvr2_classifier", NLVR2Options, nlvr2_figures)
CLASSES = _evaluation("classes", "classifier", ClassesOptions, label_figures)
