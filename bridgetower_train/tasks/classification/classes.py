"""A user's own classes: of images alone, or of images with a text.

Shapes: B samples, C classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.tasks.base import Metric
from bridgetower_train.tasks.classification.reader import ListedLabelReader, SeveralLabelsReader, TextReader
from bridgetower_train.tasks.classification.task import Classification, several_losses


class Classes(Classification):
    """One of C classes a sample; or several, or none, where the corpora say so."""

    title: ClassVar[str] = "classes"
    head_name: ClassVar[str] = "classifier"
    published_labels: ClassVar[int] = 1000
    needs_text: ClassVar[bool] = False

    @classmethod
    def decided(cls, noted: dict[str, Any]) -> dict[str, Any]:
        return {"several": bool(noted.get("several", False))}

    @classmethod
    def metrics(cls, config: TrainConfig) -> tuple[Metric, ...]:
        title = "all classes of a sample right" if config.classifier.several else "right class"
        return (Metric("acc", title, "max"),)

    @classmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> TextReader:
        return (SeveralLabelsReader if config.classifier.several else ListedLabelReader)(names)

    @classmethod
    def blank_labels(cls, config: TrainConfig, size: int, length: int) -> dict[str, Tensor]:
        if config.classifier.several:
            return {"targets": torch.ones(size, cls.labels(config))}
        return super().blank_labels(config, size, length)

    @classmethod
    def stand_in(cls, config: TrainConfig, texts: int, number: int) -> dict[str, Any]:
        found = super().stand_in(config, texts, number)
        return {**found, "labels": [[label] for label in found["labels"]]}

    @classmethod
    def in_words(cls, labels: dict[str, Tensor], row: int, names: Sequence[str]) -> str:
        if "targets" not in labels:
            return super().in_words(labels, row, names)
        return ", ".join(names[label] for label in labels["targets"][row].nonzero()[:, 0].tolist()) or "none"

    def probabilities(self, logits_PC: Tensor) -> Tensor:
        return logits_PC.sigmoid() if self.config.classifier.several else super().probabilities(logits_PC)

    def judge(self, logits_BC: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if not self.config.classifier.several:
            return super().judge(logits_BC, labels)
        targets_BC = labels["targets"]
        right_B = ((logits_BC > 0) == targets_BC.bool()).all(-1)
        return several_losses(logits_BC, targets_BC).sum(), right_B.sum()
