"""Evaluations of a trained model: each has figures, and a protocol that says what they mean.

A new one is a file with an `Evaluation` and a line in EVALUATIONS.

May import config, data, devices, distributed, model, tasks and weights.
"""

from bridgetower_train.evaluation.base import Evaluation
from bridgetower_train.evaluation.labels import CLASSES, NLVR2, SNLI_VE
from bridgetower_train.evaluation.masked_lm import MASKED_LM
from bridgetower_train.evaluation.matching import MATCHING
from bridgetower_train.evaluation.retrieval import RETRIEVAL
from bridgetower_train.evaluation.vqav2 import VQAV2
from bridgetower_train.evaluation.zero_shot import ZERO_SHOT

EVALUATIONS: dict[str, Evaluation] = {
    "matching": MATCHING,
    "masked_lm": MASKED_LM,
    "retrieval": RETRIEVAL,
    "zero_shot": ZERO_SHOT,
    "vqav2": VQAV2,
    "snli_ve": SNLI_VE,
    "nlvr2": NLVR2,
    "classes": CLASSES,
}
"""Name on the command line -> evaluation, in the order in which `bridgetower eval` shows them."""

__all__ = ["EVALUATIONS", "Evaluation"]
