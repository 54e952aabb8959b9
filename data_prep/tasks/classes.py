"""A user's own classes: images, or images with texts, each with one label or several, from a table or a folder per class."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from bridgetower_train.data.manifest import CLASSES
from bridgetower_train.data.shards import as_list
from bridgetower_train.errors import ConfigError
from data_prep.source.annotations import digest_file
from data_prep.source.captions import tidy_text
from data_prep.source.local import MISSING
from data_prep.source.rows import Row
from data_prep.source.table import image_in, named_table
from data_prep.tasks.corpus import Tally, TaskConfig, digest, listed, read_names, write


@dataclass(frozen=True)
class ClassesConfig(TaskConfig):
    """`bridgetower prep classes`: write images with labels of your own as a corpus."""

    source: str = "???"
    """A table with a sample per row (.csv and .tsv with a header, .jsonl, .parquet), or a folder with a folder of images per
    class."""
    image: str = "image"
    """Column of the table with the path of the image. Rows of the same image become one record."""
    text: str | None = None
    """Column of the table with a text about the image; null: the image alone decides."""
    label: str = "label"
    """Column of the table with the label, a text or a number, or with a list of labels."""
    separator: str = ""
    """What stands between the labels of a row that has several, such as |; empty: each row has one, or a list."""
    images: str | None = None
    """Folder in which the table's images are, and that its paths are relative to; null: the folder of the table."""
    classes: str | None = None
    """`classes.json` of the corpus that trains, so that one for evaluation has the same classes; null: all labels there are."""
    name: str = "???"
    """Name of the corpus folder."""
    split: str | None = "train"
    """`train`, `val` or `test`; a run does not train on a test split."""


class Sample(NamedTuple):
    """An image, by its path, with a text and its labels."""

    image: str
    text: str
    labels: Sequence[str]


def run(config: ClassesConfig) -> None:
    """Write the corpus, or resume.

    ConfigError where `source`, a column or a folder is missing, or no sample has a label; DataError where a table is broken.
    """
    source, tally = Path(config.source), Tally()
    several = bool(config.separator)
    if source.is_dir():
        folder, empty = config.source, [entry.name for entry in os.scandir(source) if entry.is_dir()]
        files = listed(config, [folder], "source")
        samples = list(_of_folders(files, tally))
        identity = {"source": sha256("\n".join(files).encode("utf-8", "replace")).hexdigest()}
    else:
        folder, empty = config.images or str(source.parent), []
        found = list(_of_table(config, tally))
        several |= any(is_list for _, is_list in found)
        samples = [sample for sample, _ in found]
        files = listed(config, [folder])
        keys = {key: str(getattr(config, key)) for key in ("image", "text", "label", "separator")}
        identity = {"source": digest_file("source", config.source), **keys}
    classes = read_names("classes", config.classes) if config.classes else _in_order(samples, empty)
    identity |= {"classes": digest("classes", [config.classes])} if config.classes else {}
    unknown = [sample for sample in samples if not {*sample.labels} <= {*classes}]
    tally.note("samples with a label that is not in classes", (sample.image for sample in unknown))
    samples = [sample for sample in samples if {*sample.labels} <= {*classes}]
    if not samples:
        raise ConfigError(
            f"source={config.source}: has no sample with a label{' of classes' if config.classes else ''}"
        )
    if len(classes) < 2:
        raise ConfigError(
            f"source={config.source}: has no class but {classes[0]!r}; two are the least that can be told apart"
        )
    labelled = {label for sample in samples for label in sample.labels}
    tally.note("classes without a sample", (name for name in classes if name not in labelled))
    tally.counts |= {"samples": len(samples), "classes": len(classes)}
    rows = _rows(samples, classes, folder, files, tally)
    tally.report(config.name)
    extra = {"task": "classes", "split": config.split, "several": several, "counts": dict(tally.counts)}
    about = {"title": config.name, "homepage": "", "licence": "", "note": f"prepared from {source.name}"}
    write(config, config.name, rows, [folder], identity, about, extra, {CLASSES: classes})


def _of_folders(files: Sequence[str], tally: Tally) -> Iterator[Sample]:
    for file in files:
        label, inside, _ = file.partition(os.sep)
        if inside:
            yield Sample(file, "", [label])
        else:
            tally.note("images outside the folders of the classes", [file])


def _of_table(config: ClassesConfig, tally: Tally) -> Iterator[tuple[Sample, bool]]:
    """Each sample, and whether its labels are a list in the table."""
    columns = {"image": config.image, "label": config.label, **({"text": config.text} if config.text else {})}
    for number, row in enumerate(named_table(config.source, columns)):
        if isinstance(row, str):
            tally.note(f"rows: {row}", [number])
            continue
        image, given = image_in(row, config.image, config.source), row[config.label]
        text = row[config.text] if config.text else ""
        labels = _labels(given, config.separator)
        fault = "image" if not image else "label" if not labels else "text" if config.text and not text else ""
        if fault:
            tally.note(f"rows without {'an' if fault == 'image' else 'a'} {fault}", [number])
        else:
            yield Sample(image, str(text or ""), labels), isinstance(given, list)


def _labels(given: Any, separator: str) -> list[str]:
    """The labels in a cell, each once."""
    parts = given.split(separator) if separator and isinstance(given, str) else as_list(given)
    names = (tidy_text(str(part)).strip() for part in parts if isinstance(part, str | int | float))
    return list(dict.fromkeys(name for name in names if name))


def _in_order(samples: Iterable[Sample], empty: Iterable[str]) -> list[str]:
    """All labels: numbers by their value, then the others by name."""
    names = {label for sample in samples for label in sample.labels} | {
        name for name in empty if not name.startswith(".")
    }
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def _rows(
    samples: Sequence[Sample], classes: Sequence[str], folder: str, files: Sequence[str], tally: Tally
) -> list[Row]:
    """A row for each image."""
    number_of = {name: number for number, name in enumerate(classes)}
    by_image: dict[str, list[Sample]] = {}
    for sample in samples:
        by_image.setdefault(os.path.relpath(os.path.join(folder, sample.image), folder), []).append(sample)
    there = set(files)
    tally.note("images without a sample", (file for file in files if file not in by_image))
    tally.note("samples without an image", (image for image in by_image if image not in there for _ in by_image[image]))
    rows = []
    for number, (image, of_image) in enumerate(by_image.items()):
        key = f"{number:09d}"
        meta = {
            "image_id": number,
            "file": image,
            "ids": [key] if len(of_image) == 1 else [f"{key}-{order}" for order in range(len(of_image))],
            "labels": [sorted(number_of[label] for label in sample.labels) for sample in of_image],
        }
        state = "" if image in there else MISSING
        rows.append(Row(key, image, [sample.text for sample in of_image], meta, state=state))
    return rows
