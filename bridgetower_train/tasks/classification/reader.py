"""Texts about images to what a head is trained on. A sample is one of the texts of a record.

Shapes: B samples, C labels.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bridgetower_train.data.answers import soft_targets
from bridgetower_train.data.reader import Samples, View
from bridgetower_train.data.shards import BadRecordError, Record, valid_text

MISSING = "has no {} for each text"


def entry(record: Record, key: str, number: int) -> Any:
    """Entry `number` of the list under `key` of a record; BadRecordError where there is none."""
    values = record.meta.get(key)
    if not isinstance(values, list) or number >= len(values):
        raise BadRecordError(MISSING.format(key))
    return values[number]


class Asked(NamedTuple):
    """A sample as an evaluation needs it."""

    id: Any
    """Unique in the corpus."""
    truth: Any
    """A label, the numbers of several, or the answers that people gave; None where it is not known, as in a test split."""
    kind: str = ""
    """Figures are also given for each kind."""


class TextReader(ABC):
    """What the readers share."""

    images = 1

    def __init__(self, names: Sequence[str]) -> None:
        """`names`: of the labels, by number."""
        self.names = names

    def count(self, record: Record) -> int:
        return len(record.captions)

    def view(self, record: Record, number: int) -> View:
        """Image and text; BadRecordError where the sample has no label of this task."""
        self.asked(record, number, required=True)
        return self.shown(record, number)

    def shown(self, record: Record, number: int) -> View:
        """The same, whatever its label."""
        return View(self.pictures(record), self.text(record, number))

    def pictures(self, record: Record) -> Sequence[bytes | memoryview]:
        """The encoded images."""
        return (record.image,)

    def text(self, record: Record, number: int) -> str:
        """The text that the model reads."""
        return record.captions[number]

    @abstractmethod
    def asked(self, record: Record, number: int, required: bool = False) -> Asked:
        """What is asked; BadRecordError for a label that cannot be, or that is missing where it is `required`."""

    def worded(self, truth: Any) -> str:
        """The truth of a sample, for people."""
        return ", ".join(self.names[label] for label in (truth if isinstance(truth, list) else [truth]))

    @abstractmethod
    def labels(self, samples: Samples) -> dict[str, Tensor]:
        """See Reader."""


def text_in(record: Record, key: str, number: int) -> str:
    """A text of a record; BadRecordError where there is none."""
    text = entry(record, key, number)
    if not isinstance(text, str):
        raise BadRecordError(MISSING.format(key))
    return valid_text(text)


def label_in(value: Any, count: int) -> int:
    """A label that is one of `count`; BadRecordError where it is not."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise BadRecordError(f"label {value!r:.20} is none of 0 to {count - 1}")
    return value


class LabelReader(TextReader):
    """Each text has one of C labels: `label`, int64 (B,)."""

    def asked(self, record: Record, number: int, required: bool = False) -> Asked:
        if not required and "labels" not in record.meta:
            return Asked(entry(record, "ids", number), None)
        label = self._label(entry(record, "labels", number))
        return Asked(entry(record, "ids", number), label)

    def labels(self, samples: Samples) -> dict[str, Tensor]:
        pairs = zip(samples.records, samples.numbers, strict=True)
        return {"label": torch.tensor([self.asked(record, number).truth for record, number in pairs])}

    def _label(self, value: Any) -> Any:
        """The truth of a sample, from what its record says."""
        return label_in(value, len(self.names))


class ListedLabelReader(LabelReader):
    """The same where a record has a list of labels for each text, with one entry."""

    def _label(self, value: Any) -> int:
        if not isinstance(value, list) or len(value) != 1:
            raise BadRecordError("has not one label for each text")
        return label_in(value[0], len(self.names))


class SeveralLabelsReader(LabelReader):
    """Each text has any number of C labels: `targets`, float32 (B, C), 1 for each that it has."""

    def _label(self, value: Any) -> list[int]:
        if not isinstance(value, list):
            raise BadRecordError(MISSING.format("labels"))
        return sorted({label_in(label, len(self.names)) for label in value})

    def labels(self, samples: Samples) -> dict[str, Tensor]:
        targets_BC = torch.zeros(len(samples.records), len(self.names))
        for row, (record, number) in enumerate(zip(samples.records, samples.numbers, strict=True)):
            targets_BC[row, self.asked(record, number).truth] = 1.0
        return {"targets": targets_BC}


class PremiseReader(LabelReader):
    """The text is the pair of premise and hypothesis."""

    def text(self, record: Record, number: int) -> str:
        return f"{text_in(record, 'premises', number)}</s></s>{super().text(record, number)}"


class TwoImageReader(LabelReader):
    """Each text is about both images of its record."""

    images = 2

    def pictures(self, record: Record) -> Sequence[bytes | memoryview]:
        return record.images(2)


class AnswerReader(TextReader):
    """Each question has the answers of several people: `targets`, float32 (B, C), the soft target of each of C answers.

    A question none of whose answers is among the C has targets of zero.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._number = {name: number for number, name in enumerate(names)}

    def asked(self, record: Record, number: int, required: bool = False) -> Asked:
        types = record.meta.get("answer_types")
        kind = str(entry(record, "answer_types", number)) if isinstance(types, list) else ""
        if not required and "answers" not in record.meta:
            return Asked(entry(record, "ids", number), None, kind)
        answers = entry(record, "answers", number)
        if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
            raise BadRecordError("has no answers for each question")
        return Asked(entry(record, "ids", number), answers, kind)

    def worded(self, truth: Any) -> str:
        return ", ".join(f"{answer} ({count})" for answer, count in Counter(truth).most_common())

    def target(self, answers: Sequence[str]) -> dict[int, float]:
        """Number of an answer -> its target, for those that are among the C."""
        return {self._number[a]: target for a, target in soft_targets(answers).items() if a in self._number}

    def labels(self, samples: Samples) -> dict[str, Tensor]:
        targets_BC = torch.zeros(len(samples.records), len(self.names))
        for row, (record, number) in enumerate(zip(samples.records, samples.numbers, strict=True)):
            for answer, target in self.target(self.asked(record, number).truth).items():
                targets_BC[row, answer] = target
        return {"targets": targets_BC}
