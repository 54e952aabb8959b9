"""VQAv2: the official accuracy, by type of answer, and the file that its server takes (https://visualqa.org/evaluation.html)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridgetower_train.data.answers import accuracy, soft_targets
from bridgetower_train.data.shards import Corpus
from bridgetower_train.distributed import Ranks
from bridgetower_train.evaluation.base import Evaluation, Figures, OpenModel, Result
from bridgetower_train.evaluation.choices import Choice, ChoiceOptions, brief, print_percent, result
from bridgetower_train.evaluation.eval_set import EvalSet


@dataclass(frozen=True)
class VQAv2Options(ChoiceOptions):
    """`bridgetower eval vqav2`, also under torchrun; with `predictions=` the answers as EvalAI takes them."""


def vqa_figures(chosen: Sequence[Choice], names: Sequence[str]) -> Figures:
    """The accuracy in percent, over all and by type of answer; the soft target that training takes for it; and how many questions
    have no answer in the vocabulary, which count as wrong."""
    scores = [accuracy(names[choice.best], choice.asked.truth) for choice in chosen]
    known = set(names)
    figures = {"accuracy, %": 100 * float(np.mean(scores))}
    for kind in sorted({choice.asked.kind for choice in chosen} - {""}):
        of_kind = [score for score, choice in zip(scores, chosen, strict=True) if choice.asked.kind == kind]
        figures[f"accuracy, {kind}, %"] = 100 * float(np.mean(of_kind))
    soft = [soft_targets(choice.asked.truth).get(names[choice.best], 0.0) for choice in chosen]
    outside = [not known & set(choice.asked.truth) for choice in chosen]
    return figures | {
        "soft target, %": 100 * float(np.mean(soft)),
        "outside the vocabulary, %": 100 * float(np.mean(outside)),
    }


def _submitted(choice: Choice, names: Sequence[str]) -> dict[str, Any]:
    return {"question_id": choice.asked.id, "answer": names[choice.best]}


def _run(model: OpenModel, corpus: Corpus, options: VQAv2Options, ranks: Ranks) -> Result:
    found = result(model, corpus, options, ranks, vqa_figures, _submitted)
    rule = "mean over the sets that leave one person out of min(1, others who agree / 3); answers normalised"
    return Result(found.figures, {**found.protocol, "accuracy": rule, "answers": len(model.task.names)}, found.examples)


def _brief(model: OpenModel, images: EvalSet) -> Result:
    return brief(model, images, vqa_figures)


VQAV2 = Evaluation("VQAv2", ("vqa_classifier",), VQAv2Options, _run, _brief, show=print_percent)
