"""Any images with captions: a table of paths or URLs, or a folder of images with a text beside each."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from bridgetower_train.data.shards import BadRecordError, parse_caption_member
from bridgetower_train.errors import ConfigError, DataError, nearest
from data_prep.corpora.web import WebConfig
from data_prep.fetch.images import WebImages
from data_prep.job.job import run_job
from data_prep.source.annotations import digest_file, expecting
from data_prep.source.local import LocalImages, RowList
from data_prep.source.rows import Images, Row

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TEXTS = (".json", ".txt")
NO_IMAGE = "no image"
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class CaptionsConfig(WebConfig):
    """`bridgetower prep captions`: write any captioned images as a corpus."""

    source: str = "???"
    """A table with one image per row (.csv and .tsv with a header, .jsonl, .parquet), or a folder of images, each with a
    text of the same name beside it: .txt with one caption per line, or .json with `caption` or `captions`."""
    image: str = "image"
    """Column of the table with the image's path or URL. Rows of the same image become one record."""
    caption: str = "caption"
    """Column of the table with its caption, or with a list of captions."""
    images: str | None = None
    """Folder that the table's paths are relative to; null: the folder of the table."""


def run(config: CaptionsConfig) -> None:
    """Write the corpus, or resume.

    ConfigError where `source` or a column is missing, DataError where the table is broken or none of its paths exists.
    """
    source = Path(config.source)
    if source.is_dir():
        table = _folder(source)
        run_job(config, table, LocalImages([source], config.size, config.workers), _about(config))
        return
    rows = _grouped(_table(config))
    images: Images
    if any(row.location.startswith(_WEB) for row in rows):
        images = WebImages(config.size, config.workers, config.fetch)
    else:
        folder = config.images or source.parent
        images = LocalImages([folder], config.size, config.workers)
        if rows and not images.has_any(iter(rows)):
            raise DataError(
                f"source={source}: none of the {len(rows):,} paths in its column {config.image!r}, such as "
                f"{rows[0].location!r}, exists; set images= to the folder that they are relative to"
            )
    identity = {"source": digest_file("source", config.source), "image": config.image, "caption": config.caption}
    run_job(config, RowList(rows, identity), images, _about(config))


def _about(config: CaptionsConfig) -> dict[str, str]:
    return {"title": config.name, "homepage": "", "licence": "", "note": f"prepared from {Path(config.source).name}"}


def _grouped(pairs: Iterable[tuple[str, list[Any]]]) -> list[Row]:
    """One row per image, with all its captions, in the order of first occurrence. About 400 bytes per row of the table."""
    captions: dict[str, list[Any]] = {}
    for location, texts in pairs:
        captions.setdefault(location, []).extend(texts)
    rows = []
    for number, (location, texts) in enumerate(captions.items()):
        meta = {"url" if location.startswith(_WEB) else "file": location}
        rows.append(Row(f"{number:09d}", location, texts, meta, state="" if location else NO_IMAGE))
    return rows


def _table(config: CaptionsConfig) -> Iterator[tuple[str, list[Any]]]:
    """(location, captions) of each row of the table."""
    path = Path(config.source)
    read = _READERS.get(path.suffix.lower())
    if read is None or not path.exists():
        kinds = "a folder, or a .csv, .tsv, .jsonl or .parquet"
        raise ConfigError(f"source={path}: {f'must be {kinds}' if path.exists() else 'does not exist'}")
    layout = f"is not a {path.suffix} of rows with columns {config.image}, {config.caption}"
    with expecting("source", config.source, layout):
        for row in read(path):
            for key, column in (("image", config.image), ("caption", config.caption)):
                if column not in row:
                    names = [str(name) for name in row]
                    raise ConfigError(
                        f"{key}={column}: source={path} has no such column, but {', '.join(names)}{nearest(column, names)}"
                    )
            caption = row[config.caption]
            yield str(row[config.image] or ""), list(caption) if isinstance(caption, list) else [caption]


def _csv(path: Path, **layout: Any) -> Iterator[dict[str, Any]]:
    with _open_text(path) as file:
        yield from csv.DictReader((line.replace("\0", " ") for line in file), **layout)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with _open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TypeError(f"line {number}: {line[:60]}")
                yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".csv": partial(_csv, strict=True),
    ".tsv": partial(_csv, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _open_text(path: Path) -> TextIO:
    """Bytes that are not UTF-8 become U+FFFD; a byte order mark is removed."""
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def _folder(folder: Path) -> RowList:
    """The images of a folder and its subfolders, in the order of their names, and the texts without an image."""
    files = sorted(
        os.path.relpath(os.path.join(parent, name), folder) for parent, _, names in os.walk(folder) for name in names
    )
    images = [file for file in files if _suffix(file) in IMAGES]
    if not images:
        raise DataError(f"source={folder}: has no image; give a folder of {', '.join(IMAGES)}")
    texts = {_stem(file): file for file in reversed(files) if _suffix(file) in TEXTS}  # of two the .json
    lonely = [text for stem, text in texts.items() if stem not in set(map(_stem, images))]
    digest = sha256()
    rows = []
    for number, file in enumerate(sorted([*images, *lonely])):
        text = texts.get(_stem(file))
        content = Path(folder, text).read_bytes() if text else b""
        size = os.path.getsize(folder / file)
        digest.update(f"{file}\n{size}\n{text}\n{len(content)}\n".encode("utf-8", "replace") + content)
        captions, state = _read_text(text, content) if text else ([], "")
        rows.append(Row(f"{number:09d}", file, captions, {"file": file}, state=NO_IMAGE if file == text else state))
    return RowList(rows, {"source": digest.hexdigest()})


def _read_text(name: str, content: bytes) -> tuple[list[str], str]:
    """(captions, "") of a text beside an image, or ([], why it has none)."""
    if _suffix(name) == ".txt":
        return content.decode("utf-8-sig", "replace").splitlines(), ""
    try:
        return parse_caption_member("json", content)[0], ""
    except BadRecordError as error:
        return [], error.reason


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()
