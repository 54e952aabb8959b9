"""Visual entailment (SNLI-VE, Xie et al., 2019): does an image contradict a hypothesis, leave it open, or entail it?"""

from collections.abc import Sequence
from typing import ClassVar

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.tasks.classification.reader import LabelReader, PremiseReader
from bridgetower_train.tasks.classification.task import Classification


class SNLIVE(Classification):
    """Contradiction, neutral or entailment; the text is the hypothesis, or with `classifier.premise` premise and hypothesis."""

    title: ClassVar[str] = "visual entailment (SNLI-VE)"
    head_name: ClassVar[str] = "snli_classifier"
    published_labels: ClassVar[int] = 3

    @classmethod
    def reader(cls, config: TrainConfig, tokenizer: CaptionTokenizer, names: Sequence[str] = ()) -> LabelReader:
        return PremiseReader(names) if config.classifier.premise else LabelReader(names)

    @classmethod
    def recipe(cls, config: TrainConfig) -> list[tuple[str, str]]:
        text = "premise and hypothesis" if config.classifier.premise else "the hypothesis alone"
        return [*super().recipe(config), ("text", text)]
