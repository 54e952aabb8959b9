"""SNLI-VE: one record per image with all hypotheses about it, each with its premise, a caption of the image, and its label."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridgetower_train.data.manifest import CLASSES
from bridgetower_train.errors import ConfigError
from data_prep.source.local import MISSING
from data_prep.source.rows import Row
from data_prep.tasks.corpus import (
    KEY,
    Tally,
    TaskConfig,
    digest,
    listed,
    named,
    paths,
    read_lines,
    stems,
    write,
)

LABELS = ("contradiction", "neutral", "entailment")
"""By their numbers."""
_NUMBER = re.compile("[0-9]{1,18}")
_UNDECIDED = "-"
_FIELDS = ("Flickr30K_ID", "sentence1", "sentence2")
_PUBLISHED = tuple({"hypotheses with a label": count} for count in (529_527, 17_858, 17_901))
_ABOUT = {
    "title": "SNLI-VE",
    "homepage": "https://github.com/necla-ml/SNLI-VE",
    "licence": "annotations CC BY-SA 4.0; photographs of Flickr under its terms, for non-commercial research",
    "note": "hypotheses about photographs of Flickr30k: entailed, neutral or contradicted",
}


@dataclass(frozen=True)
class SnliVeConfig(TaskConfig):
    """`bridgetower prep snli_ve`: write SNLI-VE's hypotheses as a corpus."""

    images: Any = "???"
    """Folder of the images, `flickr30k-images`, or a list of folders."""
    annotations: Any = "???"
    """`snli_ve_train.jsonl`, or a list of such files."""


def run(config: SnliVeConfig) -> None:
    """Write the corpus, or resume. ConfigError where a file is missing, or nothing in it can be used."""
    files, folders = paths("annotations", config.annotations), paths("images", config.images)
    name, split = named(config, "snli_ve", "annotations", files)
    tally = Tally()
    found = _read(files, tally)
    if not found:
        raise ConfigError(
            f"annotations={', '.join(files)}: has no hypothesis with {', '.join(_FIELDS)} and a `gold_label` of "
            f"{', '.join(LABELS)}; name a published file"
        )
    rows = _rows(found, listed(config, folders), tally)
    tally.compare(_PUBLISHED)
    tally.report(name)
    extra = {"task": "snli_ve", "split": split, "counts": dict(tally.counts)}
    write(config, name, rows, folders, {"annotations": digest("annotations", files)}, _ABOUT, extra, {CLASSES: LABELS})


def _read(files: Sequence[str], tally: Tally) -> dict[str, list[tuple[str, str, str, int]]]:
    """Image -> (id, premise, hypothesis, label) of each hypothesis that has one."""
    found: dict[str, list[tuple[str, str, str, int]]] = {}
    seen = set[str]()
    for file in files:
        for line in read_lines("annotations", file):
            fields = [line.get(field) if line else None for field in _FIELDS]
            image, premise, hypothesis = (
                str(field).strip() if isinstance(field, str | int) else "" for field in fields
            )
            label = line.get("gold_label") if line else None
            order = len(found.get(image, ()))
            key = str(line.get("pairID") or f"{image}#{order}") if line else ""
            if not image or not hypothesis:
                tally.note("broken lines", [key or "no id"])
            elif label == _UNDECIDED:
                tally.note("hypotheses on whose label people did not agree", [key])
            elif label not in LABELS:
                tally.note("hypotheses with no label, or an unknown one", [key])
            elif key in seen:
                tally.note("repeated ids", [key])
            else:
                seen.add(key)
                found.setdefault(image, []).append((key, premise, hypothesis, LABELS.index(label)))
    tally.counts["hypotheses with a label"] = len(seen)
    tally.counts["images"] = len(found)
    return found


def _rows(found: dict[str, list[tuple[str, str, str, int]]], files: Sequence[str], tally: Tally) -> list[Row]:
    images = stems(files)
    tally.note("images without a hypothesis", (file for image, file in images.items() if image not in found))
    tally.note(
        "hypotheses without an image", (line[0] for image in found if image not in images for line in found[image])
    )
    rows = []
    for number, (image, lines) in enumerate(found.items()):
        ids, premises, texts, labels = map(list, zip(*lines, strict=True))
        meta = {
            "image_id": int(image) if _NUMBER.fullmatch(image) else number,
            "ids": ids,
            "labels": labels,
            "premises": premises,
        }
        state = "" if image in images else MISSING
        key = image if KEY.fullmatch(image) else f"{number:09d}"
        rows.append(Row(key, images.get(image, image), texts, meta, state=state))
    return rows
