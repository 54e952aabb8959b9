"""Visual question answering (VQAv2, Goyal et al., 2017) as a choice among the frequent answers.

Shapes: B questions, C answers.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.manifest import ANSWERS
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.tasks.base import Metric
from bridgetower_train.tasks.classification.reader import AnswerReader
from bridgetower_train.tasks.classification.task import Classification, several_losses


class VQAv2(Classification):
    """Ten people answered each question; the target of an answer grows with how many of them gave it.

    A question none of whose answers is among the C takes part in no loss, and counts as wrong in `acc`.
    """

    title: ClassVar[str] = "visual question answering (VQAv2)"
    names_file: ClassVar[str] = ANSWERS
    head_name: ClassVar[str] = "vqa_classifier"
    hub_task: ClassVar[str] = "visual-question-answering"
    published_labels: ClassVar[int] = 3129

    @classmethod
    def metrics(cls, config: TrainConfig) -> tuple[Metric, ...]:
        return (Metric("acc", "VQA accuracy", "max"),)

    @classmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> AnswerReader:
        return AnswerReader(names)

    @classmethod
    def blank_labels(cls, config: TrainConfig, size: int, length: int) -> dict[str, Tensor]:
        return {"targets": torch.ones(size, cls.labels(config))}

    @classmethod
    def stand_in(cls, config: TrainConfig, texts: int, number: int) -> dict[str, Any]:
        answers = [cls.stand_in_names(config)[number % cls.labels(config)]] * 10
        return {"ids": [texts * number + text for text in range(texts)], "answers": [answers] * texts}

    @classmethod
    def in_words(cls, labels: dict[str, Tensor], row: int, names: Sequence[str]) -> str:
        targets_C = labels["targets"][row]
        best = sorted(targets_C.nonzero()[:, 0].tolist(), key=lambda answer: -float(targets_C[answer]))
        return ", ".join(f"{names[answer]} {targets_C[answer]:.1f}" for answer in best) or "none of the vocabulary"

    def counts(self, batch: Batch) -> Tensor:
        """float32 (2,): questions with a target, and all."""
        trained_B = batch.labels["targets"].any(-1)
        return torch.stack([trained_B.sum(), torch.ones_like(trained_B).sum()]).float()

    def probabilities(self, logits_PC: Tensor) -> Tensor:
        return logits_PC.sigmoid()

    def judge(self, logits_BC: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`acc` is the target of the likeliest answer, which with ten answers is the official accuracy."""
        targets_BC = labels["targets"]
        losses_B = several_losses(logits_BC, targets_BC) * targets_BC.any(-1)
        return losses_B.sum(), targets_BC.gather(1, logits_BC.argmax(-1, keepdim=True)).sum()
