"""NLVR2: one record per pair of images, `KEY.jpg` and `KEY.1.jpg`, with all sentences about it, true or false."""

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

LABELS = ("False", "True")
"""By their numbers."""
ONE_IMAGE = "only 1 of 2 images"
"""The state of a pair one image of which is missing."""
_PUBLISHED = tuple({"sentences": count} for count in (86_373, 6_982, 6_967))
_ABOUT = {
    "title": "NLVR2",
    "homepage": "https://lil.nlp.cornell.edu/nlvr",
    "licence": "annotations CC BY 4.0; the photographs are of the web, and belong to their owners",
    "note": "sentences about pairs of photographs: true or false",
}


@dataclass(frozen=True)
class Nlvr2Config(TaskConfig):
    """`bridgetower prep nlvr2`: write NLVR2's sentences about two images as a corpus."""

    images: Any = "???"
    """Folder of the images, such as `images/train` or `dev`, or a list of folders."""
    annotations: Any = "???"
    """`train.json`, `dev.json` or `test1.json`, a balanced or an unbalanced one, or a list of such files."""


def run(config: Nlvr2Config) -> None:
    """Write the corpus, or resume. ConfigError where a file is missing, or nothing in it can be used."""
    files, folders = paths("annotations", config.annotations), paths("images", config.images)
    name, split = named(config, "nlvr2", "annotations", files)
    tally = Tally()
    found = _read(files, split == "test", tally)
    if not found:
        raise ConfigError(
            f"annotations={', '.join(files)}: has no sentence with `identifier`, `sentence` and a `label` of "
            f"{' or '.join(LABELS)}; name a published file"
        )
    rows = _rows(found, listed(config, folders), tally)
    tally.compare(_PUBLISHED)
    tally.report(name)
    extra = {"task": "nlvr2", "split": split, "counts": dict(tally.counts)}
    write(config, name, rows, folders, {"annotations": digest("annotations", files)}, _ABOUT, extra, {CLASSES: LABELS})


def _read(files: Sequence[str], unlabelled: bool, tally: Tally) -> dict[str, list[tuple[str, str, int | None]]]:
    """Pair of images -> (identifier, sentence, label) of each sentence; the label is None where `unlabelled` allows that."""
    found: dict[str, list[tuple[str, str, int | None]]] = {}
    seen = set[str]()
    for file in files:
        for line in read_lines("annotations", file):
            identifier, sentence = (str((line or {}).get(field) or "").strip() for field in ("identifier", "sentence"))
            label = str(line["label"]).capitalize() if line and line.get("label") is not None else None
            pair, _, number = identifier.rpartition("-")
            if not KEY.fullmatch(pair) or not number or not sentence:
                tally.note("broken lines", [identifier or "no id"])
            elif label not in LABELS and not (label is None and unlabelled):
                tally.note("sentences with no label, or an unknown one", [identifier])
            elif identifier in seen:
                tally.note("repeated ids", [identifier])
            else:
                seen.add(identifier)
                found.setdefault(pair, []).append((identifier, sentence, LABELS.index(label) if label else None))
    tally.counts["sentences"] = len(seen)
    tally.counts["pairs of images"] = len(found)
    return found


def _rows(found: dict[str, list[tuple[str, str, int | None]]], files: Sequence[str], tally: Tally) -> list[Row]:
    images = stems(files)
    known = {f"{pair}-img{side}" for pair in found for side in (0, 1)}
    tally.note("images without a sentence", (file for image, file in images.items() if image not in known))
    rows = []
    for number, (pair, sentences) in enumerate(found.items()):
        ids, texts, labels = map(list, zip(*sentences, strict=True))
        meta = {"image_id": number, "ids": ids, **({} if None in labels else {"labels": labels})}
        sides = [images.get(f"{pair}-img{side}", "") for side in (0, 1)]
        state = "" if all(sides) else ONE_IMAGE if any(sides) else MISSING
        tally.note("pairs with one image" if any(sides) else "pairs without an image", [pair] if state else [])
        rows.append(Row(pair, sides[0] or f"{pair}-img0", texts, meta, state=state, further=sides[1:]))
    return rows
