"""Tiny corpora of the tasks: images of one colour, and what is asked about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from bridgetower_train.data.shards import INDEX_DTYPE
from data_prep.shapes.tokenizer import train_tokenizer
from data_prep.shards.writer import Shard, write_index
from data_prep.source.image import prepare_jpeg

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
NAMES = list(COLOURS)
SIZE = 32
ANSWERS = ["yes", "no", *COLOURS]
RELATIONS = ["contradiction", "neutral", "entailment"]


class Made(NamedTuple):
    """A record: the colours of its images, its texts, and what is beside them in its json."""

    colours: list[str]
    texts: list[str]
    meta: dict[str, Any]


def vqav2(number: int) -> Made:
    """Two questions; the third answer of the first is not among the vocabulary."""
    colour, other = NAMES[number % 3], NAMES[number // 3 % 3]
    answers = [[colour] * 7 + ["nice"] * 3, ["yes" if colour == other else "no"] * 10]
    types = ["other", "yes/no"]
    ids = [10 * number, 10 * number + 1]
    return Made(
        [colour], ["what colour is it?", f"is it {other}?"], {"ids": ids, "answers": answers, "answer_types": types}
    )


def snli_ve(number: int) -> Made:
    colour, other = NAMES[number % 3], NAMES[number // 3 % 3]
    label = 2 if colour == other else 0
    texts, ids = [f"it is {other}", "it is old"], [f"{number}#0", f"{number}#1"]
    return Made(
        [colour], texts, {"ids": ids, "labels": [label, 1], "premises": [f"a {colour} thing", f"a {colour} one"]}
    )


def nlvr2(number: int) -> Made:
    """The sentences are about the second image, so that what is told of the first one alone is wrong."""
    first, second = NAMES[number % 3], NAMES[(number + 1 + number // 3 % 2) % 3]
    ids = [f"dev-{number // 2}-{number % 2}-{i}" for i in range(2)]
    return Made([first, second], [f"the second is {second}", f"the second is {first}"], {"ids": ids, "labels": [1, 0]})


def classes(number: int) -> Made:
    """Without a text."""
    return Made([NAMES[number % 3]], [""], {"ids": [f"{number}"], "labels": [[number % 3]]})


def several(number: int) -> Made:
    """Label 2: its number is even."""
    labels = [number % 2] + [2] * (number % 2 == 0)
    return Made([NAMES[number % 2]], ["a thing"], {"ids": [f"{number}"], "labels": [labels]})


TASKS: dict[str, tuple[Callable[[int], Made], str, list[str]]] = {
    "vqav2": (vqav2, "answers.json", ANSWERS),
    "snli_ve": (snli_ve, "classes.json", RELATIONS),
    "nlvr2": (nlvr2, "classes.json", ["false", "true"]),
    "classes": (classes, "classes.json", NAMES),
}


def square(colour: str) -> bytes:
    """A JPEG of that colour."""
    return prepare_jpeg(Image.new("RGB", (SIZE, SIZE), COLOURS[colour]), SIZE)


def write(
    root: Path, name: str, task: str, records: int = 24, split: str = "train", make: Callable[[int], Made] | None = None,
    **extra: Any,
) -> None:  # fmt: skip
    """A corpus `name` below `root`, with what its task names its labels; `make`: other records than the task's own."""
    usual, file, names = TASKS[task]
    folder = root / name
    folder.mkdir(parents=True)
    shard = Shard(folder / "000000.tar", "000000.tar", name, SIZE)
    for number in range(records):
        made = (make or usual)(number)
        first, *others = map(square, made.colours)
        assert not shard.add(f"{number:06d}", first, made.texts, {"image_id": number, **made.meta}, further=others)
    info, rows = shard.finish()
    noted = {"task": task, "split": split, **extra}
    write_index(folder, rows.astype(INDEX_DTYPE), name, SIZE, "json", [info], {}, noted)
    (folder / file).write_text(json.dumps(names))


def write_all(root: Path) -> Path:
    """For each task a corpus TASK_train and one TASK_val, and a tokenizer for all."""
    for task in TASKS:
        write(root, f"{task}_train", task)
        write(root, f"{task}_val", task, 12, "val")
    texts = [text for make, *_ in TASKS.values() for number in range(12) for text in make(number).texts]
    (root / "tokenizer.json").write_text(train_tokenizer([*texts, "a thing one", *NAMES], 300).to_str())
    return root
