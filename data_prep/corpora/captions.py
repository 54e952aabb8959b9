"""Any images with captions: a table of paths or URLs, or a folder of images with a text beside each."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    MAX_CAPTION_BYTES,
    BadRecordError,
    as_list,
    clean_captions,
    parse_caption_member,
)
from bridgetower_train.errors import ConfigError, DataError, nearest
from bridgetower_train.foreign import open_regular
from data_prep.corpora.web import WebConfig
from data_prep.fetch.images import WebImages
from data_prep.job.job import run_job
from data_prep.source.annotations import digest_file, expecting
from data_prep.source.captions import check_kinds
from data_prep.source.local import MISSING, UNREADABLE, LinkConfig, LocalImages, RowList, local_path, read_local
from data_prep.source.parquet import read_parquet
from data_prep.source.rows import Images, Row

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEXTS = (".json", ".txt")
NO_IMAGE = "no image"
_WEB = ("http://", "https://")
_LINE = 64 << 20  # characters of a table's row


@dataclass(frozen=True)
class CaptionsConfig(LinkConfig, WebConfig):
    """`bridgetower prep captions`: write any captioned images as a corpus."""

    source: str = "???"
    """A table with one image per row (.csv and .tsv with a header, .jsonl, .parquet), or a folder of images, each with a
    text of the same name beside it: .txt with one caption per line, or .json with `caption` or `captions`."""
    image: str = "image"
    """Column of the table with the image's path or URL. Rows of the same image become one record."""
    caption: str = "caption"
    """Column of the table with its caption, or with a list of captions."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Captions of several kinds, instead of `caption`: kind -> column, as {alt: text, synthetic: blip}; a run may draw them by
    shares (`data.captions`). In a folder, .json files may have `kinds` beside `captions`."""
    images: str | None = None
    """Folder in which the table's images are, and that its paths are relative to; null: the folder of the table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kinds(self.kinds)

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(kind, or "", column) of all captions."""
        return list(self.kinds.items()) or [("", self.caption)]


def run(config: CaptionsConfig) -> None:
    """Write the corpus, or resume.

    ConfigError where `source` or a column is missing, DataError where the table is broken or none of its paths exists.
    """
    source = Path(config.source)
    if source.is_dir():
        images: Images = LocalImages(source, config.size, config.workers, config.follow_links)
        run_job(config, RowList(*_folder(source, config)), images, _about(config))
        return
    rows = _grouped(_table(config))
    if any(row.location.startswith(_WEB) for row in rows):
        images = WebImages(config.size, config.workers, config.fetch)
    else:
        folder = config.images or source.parent
        images = local = LocalImages(folder, config.size, config.workers, config.follow_links)
        if rows and not local.has_any(iter(rows)):
            raise DataError(
                f"source={source}: none of the {len(rows):,} paths in its column {config.image!r}, such as "
                f"{rows[0].location!r}, exists in {folder}; set images= to the folder in which they are"
            )
    identity = {"source": digest_file("source", config.source), "image": config.image, "caption": config.caption}
    if config.kinds:
        identity["kinds"] = json.dumps(config.kinds)
    identity |= config.link_rule
    run_job(config, RowList(rows, identity), images, _about(config))


def _about(config: CaptionsConfig) -> dict[str, str]:
    return {"title": config.name, "homepage": "", "licence": "", "note": f"prepared from {Path(config.source).name}"}


def _grouped(found: Iterable[tuple[str, str, list[Any]]]) -> list[Row]:
    """One row per image, with all its captions, in the order of first occurrence. About 400 bytes per row of the table."""
    captions: dict[str, tuple[list[Any], list[str]]] = {}
    for location, kind, texts in found:
        all_texts, kinds = captions.setdefault(location, ([], []))
        all_texts.extend(texts)
        if kind:
            kinds.extend([kind] * len(texts))
    rows = []
    for number, (location, (texts, kinds)) in enumerate(captions.items()):
        meta = {"url" if location.startswith(_WEB) else "file": location}
        rows.append(Row(f"{number:09d}", location, texts, meta, kinds=kinds, state="" if location else NO_IMAGE))
    return rows


def _table(config: CaptionsConfig) -> Iterator[tuple[str, str, list[Any]]]:
    """(location, kind, captions) of each row of the table, for each kind."""
    path = Path(config.source)
    read = _READERS.get(path.suffix.lower())
    if read is None or not path.exists():
        kinds = "a folder, or a .csv, .tsv, .jsonl or .parquet"
        raise ConfigError(f"source={path}: {f'must be {kinds}' if path.exists() else 'does not exist'}")
    keys = {config.image: "image"} | {column: f"kinds.{kind}" if kind else "caption" for kind, column in config.columns}
    layout = f"is not a {path.suffix} of rows with columns {', '.join(keys)}"
    with expecting("source", config.source, layout):
        for row in read(path, tuple(keys)):
            for column, key in keys.items():
                if column not in row:
                    names = [str(name) for name in row]
                    raise ConfigError(
                        f"{key}={column}: source={path} has no such column, but {', '.join(names)}{nearest(column, names)}"
                    )
            for kind, column in config.columns:
                yield str(row[config.image] or ""), kind, as_list(row[column])


def _csv(path: Path, columns: Sequence[str], **layout: Any) -> Iterator[dict[str, Any]]:
    yield from csv.DictReader((line.replace("\0", " ") for line in _lines(path)), **layout)


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError(f"line {number}: {line[:60]}")
            yield row


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[dict[str, Any]]]] = {
    ".csv": partial(_csv, strict=True),
    ".tsv": partial(_csv, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": _jsonl,
    ".parquet": read_parquet,
}
"""Suffix -> reader of a table's rows; of other columns than the named ones only some readers give values."""


def _lines(path: Path) -> Iterator[str]:
    """Bytes that are not UTF-8 become U+FFFD; a byte order mark is removed. ValueError for an endless line."""
    with TextIOWrapper(open_regular(path), encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, line in enumerate(iter(partial(file.readline, _LINE), ""), 1):
            if len(line) == _LINE:
                raise ValueError(f"line {number} has over {_LINE:,} characters")
            yield line


def _folder(folder: Path, links: LinkConfig) -> tuple[list[Row], dict[str, str]]:
    """(the images of a folder and its subfolders, in the order of their names, and the texts without an image; identity)."""
    files = sorted(
        os.path.relpath(os.path.join(parent, name), folder) for parent, _, names in os.walk(folder) for name in names
    )
    images = [file for file in files if _suffix(file) in IMAGES]
    if not images:
        raise DataError(f"source={folder}: has no image; give a folder of {', '.join(IMAGES)}")
    texts = {_stem(file): file for file in reversed(files) if _suffix(file) in TEXTS}  # of two the .json
    stems = set(map(_stem, images))
    lonely = [text for stem, text in texts.items() if stem not in stems]
    digest = sha256()
    rows = []
    for number, file in enumerate(sorted([*images, *lonely])):
        text = texts.get(_stem(file))
        content, captions, state = _read_text(folder, text, links.follow_links) if text else (b"", {}, "")
        size = _size(folder / file)
        digest.update(f"{file}\n{size}\n{text}\n{len(content)}\n".encode("utf-8", "replace") + content)
        state = NO_IMAGE if file == text else state
        kinds = list(captions.values()) if any(captions.values()) else []
        rows.append(Row(f"{number:09d}", file, list(captions), {"file": file}, kinds=kinds, state=state))
    return rows, {"source": digest.hexdigest(), **links.link_rule}


def _read_text(folder: Path, name: str, follow_links: bool) -> tuple[bytes, dict[str, str], str]:
    """(contents, captions with their kinds, "") of a text beside an image, or (what could be read, {}, why it has none)."""
    content = b""
    try:
        content = read_local(local_path(str(folder), name, follow_links), MAX_CAPTION_BYTES, CAPTIONS_TOO_LARGE)
        if _suffix(name) == ".txt":
            return content, clean_captions(content.decode("utf-8-sig", "replace").splitlines()), ""
        return content, parse_caption_member("json", content)[0], ""
    except FileNotFoundError:  # a dangling link
        return content, {}, MISSING
    except OSError:
        return content, {}, UNREADABLE
    except BadRecordError as error:
        return content, {}, error.reason


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a dangling link
        return 0


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()
