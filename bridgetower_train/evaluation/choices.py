"""What a model chooses for every text of a corpus, and how figures of that are given.

Shapes: B rows, I images of a row, P texts, C labels.
"""

import json
from collections import ChainMap, Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.data.image import decode_square
from bridgetower_train.data.reader import View
from bridgetower_train.data.shards import BadRecordError, Corpus
from bridgetower_train.display import listed, print_line
from bridgetower_train.distributed import ALONE, Ranks
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.evaluation.base import EvalOptions, Figures, OpenModel, Result
from bridgetower_train.evaluation.eval_set import EvalSet, count_cut
from bridgetower_train.evaluation.ranking import chunks
from bridgetower_train.files import atomic_write
from bridgetower_train.tasks.base import evaluating
from bridgetower_train.tasks.classification import Classification
from bridgetower_train.tasks.classification.reader import Asked, TextReader

SHOWN = 12
"""Examples for the report."""


@dataclass(frozen=True)
class ChoiceOptions(EvalOptions):
    """What evaluations of chosen answers and classes take."""

    predictions: str | None = None
    """JSON file for what the model chose; null: it is not kept."""
    batch: int = 64
    """Texts that are computed at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("batch", self.batch, 1)
        if self.predictions and self.corpora:
            raise ConfigError(f"predictions={self.predictions}: is for one corpus; give corpus= instead of corpora=")


class Choice(NamedTuple):
    """What the model chose for a text."""

    asked: Asked
    text: str
    row: int
    best: int
    """The likeliest label."""
    logits: npt.NDArray[np.float32] | None = None
    """float32 (C,), where a text may have several labels."""


@dataclass(frozen=True)
class Choices:
    """Those of a corpus, in its order."""

    found: list[Choice]
    left_out: dict[str, str] = field(default_factory=dict)
    """Key of a record -> why its texts could not be read."""
    unseen: dict[str, str] = field(default_factory=dict)
    """Key of a record -> why its images could not be decoded; its texts were judged with black ones."""
    cut: int = 0
    """Texts that lost their ends."""

    def protocol(self) -> dict[str, Any]:
        """What must be stated with figures of them."""
        return {
            "texts": len(self.found),
            "texts cut": self.cut,
            "without image": listed(self.unseen),
            "left out": listed(self.left_out),
        }


def reader_of(model: OpenModel) -> TextReader:
    """The reader of the model's task."""
    assert isinstance(model.task, Classification), "the heads decide"
    return model.task.reader(model.config, model.tokenizer, model.task.names)


def choose(
    model: OpenModel, corpus: Corpus, ranks: Ranks, batch: int = 64, rows: Sequence[int] | None = None
) -> Choices:
    """The choices for all texts of a corpus, or of these `rows`: the work of all ranks, the same on all.

    DataError where two have the same id, or none can be used.
    """
    reader = reader_of(model)
    counts = corpus.index["captions"].astype(np.int64)
    chosen = np.arange(len(counts)) if rows is None else np.asarray(rows, dtype=np.int64)
    row_P = chosen.repeat(counts[chosen])
    number_P = np.concatenate([np.arange(count) for count in counts[chosen]])
    parts: dict[int, list[Choice]] = {}
    left_out: dict[str, str] = {}
    unseen: dict[str, str] = {}
    cut = 0
    for part in chunks(len(row_P), ranks, batch, "texts" if rows is None else None):
        read = []
        for row, number in zip(row_P[part].tolist(), number_P[part].tolist(), strict=True):
            try:
                record = corpus.read(row)
                read.append(_Read(row, reader.asked(record, number), reader.shown(record, number)))
            except BadRecordError as error:
                left_out[corpus.key(row)] = error.reason
        if read:
            parts[part.start] = _judged(model, corpus, read, unseen)
            cut += count_cut(model.tokenizer, [one.view.text for one in read], model.config.model.max_text_len)
    shares = ranks.gather_objects((parts, left_out, unseen, cut))
    whole, left_out, unseen = (dict(ChainMap(*(share[place] for share in shares))) for place in range(3))
    found = [choice for start in sorted(whole) for choice in whole[start]]
    if not found:
        raise DataError(f"{corpus.name}: none of its texts can be used: {listed(left_out)}; choose another corpus")
    twice = [identity for identity, count in Counter(choice.asked.id for choice in found).items() if count > 1]
    if twice:
        raise DataError(f"{corpus.name}: has the id {twice[0]!r} more than once; prepare it again")
    return Choices(found, left_out, unseen, sum(share[3] for share in shares))


class _Read(NamedTuple):
    row: int
    asked: Asked
    view: View


def _judged(model: OpenModel, corpus: Corpus, read: list[_Read], unseen: dict[str, str]) -> list[Choice]:
    """The choices for some texts. Each image is encoded once, whatever the number of its texts."""
    task, several = model.task, bool(model.config.classifier.several)
    assert isinstance(task, Classification)
    pixels, place_P = _pixels(model.config, corpus, read, unseen)
    ids, mask = model.tokenizer.encode([one.view.text for one in read], model.config.model.max_text_len)
    with evaluating(task, model.device):
        on_device = (tensor.to(model.device.torch_device) for tensor in (pixels, ids, mask, place_P))
        logits_PC = task.logits(*on_device).float().cpu().numpy()
    return [
        Choice(one.asked, one.view.text, one.row, int(logits.argmax()), logits if several else None)
        for one, logits in zip(read, logits_PC, strict=True)
    ]


def _pixels(
    config: TrainConfig, corpus: Corpus, read: Sequence[_Read], unseen: dict[str, str]
) -> tuple[Tensor, Tensor]:
    """(uint8 (B * I, 3, S, S), the images of the rows that were read; int64 (P,), which of the B rows each text is about)."""
    size = config.model.image_size
    images = {one.row: one.view.images for one in read}
    pixels = np.zeros((len(images), len(read[0].view.images), size, size, 3), dtype=np.uint8)
    for out, (row, encoded) in zip(pixels, images.items(), strict=True):
        try:
            for image, target in zip(encoded, out, strict=True):
                decode_square(image, size, config.data.square, target)
        except BadRecordError as error:
            out[:] = 0
            unseen[corpus.key(row)] = error.reason
    place = {row: number for number, row in enumerate(images)}
    flat = torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2)
    return flat, torch.tensor([place[one.row] for one in read])


def result(
    model: OpenModel,
    corpus: Corpus,
    options: ChoiceOptions,
    ranks: Ranks,
    figures: Callable[[Sequence[Choice], Sequence[str]], Figures],
    as_submitted: Callable[[Choice, Sequence[str]], dict[str, Any]],
) -> Result:
    """The figures of a corpus, with its predictions kept as `options` say.

    `figures` of choices with their truth and the names of labels; `as_submitted`: an entry of the predictions. ConfigError where
    there would be neither.
    """
    names = model.task.names
    choices = choose(model, corpus, ranks, options.batch)
    known = [choice for choice in choices.found if choice.asked.truth is not None]
    if not known and not options.predictions:
        raise ConfigError(
            f"corpus={corpus.name}: its labels are not known, so there are no figures; give a file for what the model chooses in "
            "predictions="
        )
    protocol = choices.protocol() | {"labels known": len(known)}
    if model.config.classifier.blind:
        protocol["images"] = "all grey (classifier.blind)"
    if options.predictions and ranks.is_main:
        entries = [as_submitted(choice, names) for choice in choices.found]
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        atomic_write(Path(options.predictions), f"[\n{lines}\n]\n")
        protocol["predictions"] = f"{len(entries):,} in {options.predictions}"
    examples = [example(model, corpus, choice) for choice in choices.found[:SHOWN]] if ranks.is_main else []
    return Result(figures(known, names) if known else {}, protocol, examples)


def brief(model: OpenModel, images: EvalSet, figures: Callable[[Sequence[Choice], Sequence[str]], Figures]) -> Result:
    """The figures of a sample of images, without those in groups."""
    choices = choose(model, images.corpus, ALONE, rows=images.rows)
    known = [choice for choice in choices.found if choice.asked.truth is not None]
    found = figures(known, model.task.names) if known else {}
    flat = {name: value for name, value in found.items() if not isinstance(value, dict)}
    return Result(flat, examples=[example(model, images.corpus, choice) for choice in choices.found[:SHOWN]])


def example(model: OpenModel, corpus: Corpus, choice: Choice) -> dict[str, Any]:
    """A text with its images, its truth and what was chosen, for the report."""
    record, reader, names = corpus.read(choice.row), reader_of(model), model.task.names
    read = [_Read(choice.row, choice.asked, View(reader.pictures(record), choice.text))]
    pixels, _ = _pixels(model.config, corpus, read, {})
    truth = choice.asked.truth
    facts = {"truth": "not known" if truth is None else reader.worded(truth), "prediction": chosen_names(choice, names)}
    return {
        "images": [{"image": image, "caption": ""} for image in pixels],
        "text": choice.text.replace("</s></s>", " / "),
        "facts": {name: ", ".join(value) if isinstance(value, list) else value for name, value in facts.items()},
    }


def chosen_labels(choice: Choice) -> list[int]:
    """The likeliest label; where a text may have several, all whose probability is above one half."""
    return [choice.best] if choice.logits is None else np.flatnonzero(choice.logits > 0).tolist()


def chosen_names(choice: Choice, names: Sequence[str]) -> str | list[str]:
    """The name of the label, or those of several."""
    found = [names[label] for label in chosen_labels(choice)]
    return found[0] if choice.logits is None else found


def print_percent(figures: Figures) -> None:
    """A line for each figure, in percent with four digits; groups follow, each below its name."""
    for name, value in figures.items():
        if not isinstance(value, dict):
            print_line(f"{name:32}{value:.2f}")
    for name, value in figures.items():
        if isinstance(value, dict):
            print()
            print_line(name)
            print_percent(value)
