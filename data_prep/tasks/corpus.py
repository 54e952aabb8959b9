"""What the corpora of all tasks share: their keys, their images, what is counted, and how they are written."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridgetower_train.config import one_of
from bridgetower_train.data.manifest import are_distinct, as_file
from bridgetower_train.display import print_line, shortened
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.foreign import read_json
from data_prep.job.job import JobConfig, run_job
from data_prep.source.annotations import digest_file
from data_prep.source.local import IMAGES, LinkConfig, LocalImages, RowList, files_in
from data_prep.source.rows import Row
from data_prep.source.table import READERS

KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""What the key of a record can be."""

_SHOWN = 3
_SLACK = 0.05  # of a published count, within which the whole files are taken to be given
_SPLIT = re.compile(r"(?:^|[^a-z])(trainval|train|val|dev|test-dev|test)\d*(?=[^a-z]|$)")
_KINDS = {"trainval": "train", "test-dev": "test"}


@dataclass(frozen=True)
class TaskConfig(LinkConfig, JobConfig):
    """Keys of the preparations of a task."""

    name: str = ""
    """Name of the corpus folder; empty: the task and the split, such as vqav2_train."""
    size: int = 384
    """Pixels: larger images are reduced to this shorter edge; by default the size at which the recipe evaluates."""
    resize: str = "larger"
    """`larger`: smaller images keep their size, and JPEGs without EXIF their bytes; `none`: all images do; `all`: smaller ones
    are enlarged."""
    split: str | None = None
    """`train`, `val` or `test`; a run does not train on a test split. null: as the names of the annotation files say."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("resize", self.resize, ("larger", "none", "all"))
        if self.split is not None:
            one_of("split", self.split, ("train", "val", "test"))


class Tally:
    """What was found in a source, counted, with the first names of each finding that is a fault."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def note(self, what: str, names: Iterable[object]) -> None:
        """Count what is left out or lacking, by its names."""
        for name in names:
            self.counts[what] += 1
            first = self._first.setdefault(what, [])
            if len(first) < _SHOWN:
                first.append(shortened(str(name)))

    def compare(self, published: Sequence[Mapping[str, int]]) -> None:
        """Print whether the counts are as published, where the whole files are given: about as many texts as one of them has.

        Each of `published` begins with the count of all its texts.
        """
        for whole in dict.fromkeys(next(iter(counts)) for counts in published):
            found = self.counts[whole]
            counts = min((c for c in published if next(iter(c)) == whole), key=lambda c: abs(c[whole] - found))
            if abs(counts[whole] - found) <= _SLACK * counts[whole]:
                other = [
                    f"{self.counts[what]:,} {what}, not {n:,}" for what, n in counts.items() if self.counts[what] != n
                ]
                shown = ", ".join(f"{n:,} {what}" for what, n in counts.items())
                print_line(f"other counts than published: {'; '.join(other)}" if other else f"as published: {shown}")

    def report(self, name: str) -> None:
        """Print all counts."""
        print_line(
            f"{name}: " + ", ".join(f"{n:,} {what}" for what, n in self.counts.items() if what not in self._first)
        )
        for what, first in self._first.items():
            count = self.counts[what]
            print_line(f"  {what}: {count:,} ({', '.join(first)}{', ...' if count > len(first) else ''})")


def paths(key: str, given: Any) -> list[str]:
    """The paths of a key that takes one or a list. ConfigError for anything else."""
    found = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    if not found or not all(isinstance(path, str) and path for path in found):
        raise ConfigError(f"{key}={given}: must be a path, or a list of paths")
    return found


def named(config: TaskConfig, task: str, key: str, files: Sequence[str]) -> tuple[str, str]:
    """(name of the corpus, its split) by the names of `files`, the paths of `key`. ConfigError where these do not tell."""
    found = [match[1] for file in files if (match := _SPLIT.search(os.path.basename(file).lower()))]
    splits = list(dict.fromkeys("val" if split == "dev" else split for split in found))
    if config.split is None and not splits:
        raise ConfigError(f"split: the name of {key}={files[0]} does not tell; set split=train, val or test")
    if config.split is None and len(splits) > 1 and any(split.startswith("test") for split in splits):
        raise ConfigError(f"{key}: names files of {' and '.join(splits)}; a test split must be a corpus of its own")
    split = config.split or "".join(splits)
    return config.name or f"{task}_{split.replace('-', '_')}", _KINDS.get(split, split)


def listed(config: TaskConfig, folders: Sequence[str], key: str = "images") -> list[str]:
    """The images in some folders, by their paths in these, each once. ConfigError where a folder is missing or none has any."""
    found: dict[str, None] = {}
    for folder in folders:
        if not os.path.isdir(folder):
            raise ConfigError(f"{key}={folder}: no such folder; give the folder of the images")
        names, left_out = files_in(folder, config.follow_links)
        found |= dict.fromkeys(name for name in names if os.path.splitext(name)[1].lower() in IMAGES)
        for name, state in left_out.items():
            print_line(f"left out: {os.path.join(folder, name)}: {state}")
    if not found:
        raise ConfigError(f"{key}={', '.join(folders)}: has no image; give a folder of {', '.join(IMAGES)}")
    return list(found)


def stems(files: Iterable[str]) -> dict[str, str]:
    """Name of an image without its suffix -> its path; the first of each name."""
    found: dict[str, str] = {}
    for file in files:
        found.setdefault(os.path.splitext(os.path.basename(file))[0], file)
    return found


def digest(key: str, files: Sequence[str]) -> str:
    """Of some files, for the identity of a table. ConfigError where one cannot be read."""
    return " ".join(digest_file(key, file) for file in files)


def read_lines(key: str, path: str) -> Iterator[dict[str, Any] | None]:
    """The objects of a file of JSON lines; None for a line that is none. ConfigError where it cannot be read or has none."""
    usable = False
    try:
        for row in READERS[".jsonl"](Path(path), ()):
            usable |= not isinstance(row, str)
            yield None if isinstance(row, str) else row
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error})") from None
    if not usable:
        raise ConfigError(f"{key}={path}: has no line of JSON; name the published file")


def read_names(key: str, path: str) -> list[str]:
    """A list of answers or classes, as a corpus has it beside its shards. ConfigError where it is none."""
    try:
        names = read_json(path, list[str])
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from None
    except FileError as error:
        raise ConfigError(f"{key}={error}") from None
    if not are_distinct(names):
        raise ConfigError(f"{key}={path}: is empty, or names something twice; give the file of a prepared corpus")
    return names


def write(
    config: TaskConfig,
    name: str,
    rows: Sequence[Row],
    folders: Sequence[str],
    identity: Mapping[str, str],
    about: dict[str, str],
    extra: Mapping[str, Any],
    files: Mapping[str, Sequence[str]],
) -> None:
    """Write the corpus `name`, or resume. ConfigError where none of the images is there.

    `extra`: its task and split, and what else the manifest says. `files`: name -> a list of answers or classes.
    """
    if all(row.state for row in rows):
        raise ConfigError(
            f"images={', '.join(folders)}: has none of the {len(rows):,} images of {name}; give their folder"
        )
    identity = {**identity, "resize": config.resize, "splits": str(extra["split"]), **config.link_rule}
    size = None if config.resize == "none" else config.size
    images = LocalImages(folders, size, config.workers, config.follow_links, enlarge=config.resize == "all")
    texts = {name: as_file(names) for name, names in files.items()}
    table = RowList(rows, identity)
    run_job(replace(config, name=name), table, images, about, dict(extra), config.resize == "all", texts)
