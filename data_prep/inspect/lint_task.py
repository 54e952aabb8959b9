"""What is wrong with the samples of a record that a task trains on: its ids, labels, answers and images."""

from collections.abc import Iterator, Sequence
from typing import Any

from bridgetower_train.data.manifest import ANSWERS, CLASSES, Manifest, are_distinct
from bridgetower_train.data.roots import read_small
from bridgetower_train.data.shards import Corpus, Record
from bridgetower_train.errors import DataError, FileError
from bridgetower_train.foreign import parse_json

NAMES = {"vqav2": ANSWERS, "snli_ve": CLASSES, "nlvr2": CLASSES, "classes": CLASSES}
"""Task -> the file of a corpus with the names of what can be answered."""


def task_of(manifest: Manifest) -> str:
    """The task that a corpus was prepared for; empty where it is none that we know."""
    task = manifest.extra.get("task")
    return task if isinstance(task, str) and task in NAMES else ""


def images_of(record: Record, manifest: Manifest) -> Sequence[bytes | memoryview]:
    """All images of a record. BadRecordError where it lacks one."""
    return record.images(2) if task_of(manifest) == "nlvr2" else (record.image,)


def names_of(corpus: Corpus) -> list[str]:
    """What can be answered, by number. DataError or FileError where the file cannot be read, is empty or has a name twice."""
    file = NAMES[task_of(corpus.manifest)]
    root, _, name = corpus.folder.rpartition("/")
    try:
        names = parse_json(read_small(root, f"{name}/{file}"), list[str], file, "prepare the corpus again")
    except OSError as error:
        raise FileError(f"{file}: cannot be read ({error.strerror}); prepare the corpus again") from None
    if not are_distinct(names):
        raise DataError(f"{file}: is empty, or names something twice; prepare the corpus again")
    return names


def faults_of(record: Record, manifest: Manifest, classes: int | None) -> Iterator[str]:
    """What is wrong with the lists of a record, one entry for each of its samples; `classes`: how many there are, if known."""
    task, meta, tested = task_of(manifest), record.meta, manifest.extra.get("split") == "test"
    samples = len(record.captions)
    if not _is_list(meta.get("ids"), samples, int | str):
        yield "has no id for each text"
    if task == "vqav2":
        if "answers" not in meta and not tested:
            yield "has no answers"
        if "answers" in meta and not _is_list(meta["answers"], samples, list):
            yield "has no answers for each question"
        elif any(not of_one or not _is_list(of_one, len(of_one), str) for of_one in meta.get("answers", ())):
            yield "has a question without an answer"
        if "answer_types" in meta and not _is_list(meta["answer_types"], samples, str):
            yield "has no type of answer for each question"
        return
    if task == "snli_ve" and not _is_list(meta.get("premises"), samples, str):
        yield "has no premise for each hypothesis"
    if "labels" not in meta and tested:
        return
    several = task == "classes"
    if not _is_list(meta.get("labels"), samples, list if several else int):
        yield "has no label for each text"
        return
    most = 0xFFFFFFFF if classes is None else classes - 1
    for given in meta["labels"]:
        labels = given if several else [given]
        if not labels or not all(type(label) is int and 0 <= label <= most for label in labels):
            yield "has a label that is no number of a class"
            return
        if several and not manifest.extra.get("several") and len(labels) > 1:
            yield "has several labels for a text"
            return


def _is_list(value: Any, length: int, kind: Any) -> bool:
    return isinstance(value, list) and len(value) == length and all(isinstance(entry, kind) for entry in value)
