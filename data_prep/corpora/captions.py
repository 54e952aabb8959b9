"""Any images with captions: a table of paths or URLs, or a folder of images with a text beside each."""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    MAX_CAPTION_BYTES,
    BadRecordError,
    as_list,
    clean_captions,
    parse_caption_member,
)
from bridgetower_train.display import print_line, shortened
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.foreign import decode_text
from data_prep.corpora.parquet import SUFFIX, ParquetParts, has_images
from data_prep.corpora.web import WebConfig
from data_prep.fetch.images import WebImages
from data_prep.job.job import run_job, run_parts
from data_prep.packed.files import about_files
from data_prep.packed.images import PlacedImages
from data_prep.shards.summary import most_frequent
from data_prep.source.annotations import digest_file
from data_prep.source.captions import check_kinds
from data_prep.source.local import (
    IMAGES,
    MISSING,
    UNREADABLE,
    LinkConfig,
    LocalImages,
    RowList,
    files_in,
    local_path,
    read_local,
)
from data_prep.source.rows import NO_IMAGE, WEB, Images, Row
from data_prep.source.table import image_in, named_table

TEXTS = (".json", ".txt")
"""Suffixes of the texts; where an image has several, the first that gives captions is taken."""
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class CaptionsConfig(LinkConfig, WebConfig):
    """`bridgetower prep captions`: write any captioned images as a corpus."""

    source: str = "???"
    """A table with one image per row (.csv and .tsv with a header, .jsonl, .parquet), or a folder of images, each with a
    text of the same name beside it: .json with `caption` or `captions`, or else .txt with one caption per line. As Hugging Face
    has them: a folder of images with a metadata.csv, .jsonl or .parquet; .parquet files with the images in them, several with *,
    or a folder of them, also by URL (hf://datasets/OWNER/NAME/..., s3://)."""
    image: str = "image"
    """Column of the table with the image: its path, its URL, or its bytes. Rows of the same image become one record. In
    metadata files it is `file_name`."""
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
    if _is_parquet_with_images(config.source):
        _embedded(config)
        return
    if metadata := _metadata(source):
        config = replace(config, source=str(metadata), image="file_name", images=str(metadata.parent))
        source = metadata
    if source.is_dir():
        images: Images = LocalImages(source, config.size, config.workers, config.follow_links)
        rows, identity, unread = _folder(source, config)
        if unread:
            print_line(f"left unread by suffix: {', '.join(f'{suffix} {count:,}' for suffix, count in unread.items())}")
        run_job(
            config, RowList(rows, identity), images, _about(config), {"unread_files": dict(unread)} if unread else {}
        )
        return
    rows = _grouped(_table(config))
    if any(row.location.startswith(WEB) for row in rows):
        images = WebImages(config.size, config.workers, config.fetch)
    else:
        folder = config.images or source.parent
        images = local = LocalImages(folder, config.size, config.workers, config.follow_links)
        if rows and not local.has_any(iter(rows)):
            raise DataError(
                f"source={source}: none of the {len(rows):,} paths in its column {config.image!r}, such as "
                f"{shortened(repr(rows[0].location))}, exists in {folder}; set images= to the folder in which they are"
            )
    identity = {"source": digest_file("source", config.source), "image": config.image, "caption": config.caption}
    if config.kinds:
        identity["kinds"] = json.dumps(config.kinds)
    identity |= config.link_rule
    run_job(config, RowList(rows, identity), images, _about(config))


def _is_parquet_with_images(source: str) -> bool:
    path = Path(source)
    if is_remote(source) or (not path.exists() and SUFFIX in source):
        return True
    if path.is_dir():
        names = [name for _, _, names in os.walk(path) for name in names]
        return any(_suffix(name) == SUFFIX for name in names) and not any(_suffix(name) in IMAGES for name in names)
    return _suffix(source) == SUFFIX and has_images(path)


def _embedded(config: CaptionsConfig) -> None:
    if config.again:
        raise ConfigError("again: images in .parquet files are not fetched one by one; leave the key out")
    parts = ParquetParts(config.source, config.image, config.columns, config.follow_links, config.link_rule)
    images = PlacedImages(config.size, config.workers)
    about = {**_about(config), "note": about_files(parts.names)}
    run_parts(config, parts, images, about, None, {"size": config.size})


def _metadata(folder: Path) -> Path | None:
    """The table of an image folder of Hugging Face's. ConfigError where its splits have one each."""
    found = sorted(path for name in _METADATA for path in (folder / name, *folder.glob(f"*/{name}")) if path.is_file())
    if len(found) > 1:
        raise ConfigError(
            f"source={folder}: has {found[0]} and {found[1]}; name the folder of one, as source={found[0].parent}"
        )
    return found[0] if found else None


def _about(config: CaptionsConfig) -> dict[str, str]:
    return {"title": config.name, "homepage": "", "licence": "", "note": f"prepared from {Path(config.source).name}"}


def _grouped(found: Iterable[tuple[str, str, list[Any], str]]) -> list[Row]:
    """One row per image, with all its captions, and one per row with a state, in the order of first occurrence.

    About 400 bytes per row of the table.
    """
    captions: dict[str | int, tuple[str, list[Any], list[str], str]] = {}
    for number, (location, kind, texts, state) in enumerate(found):
        _, all_texts, kinds, _ = captions.setdefault(number if state else location, (location, [], [], state))
        all_texts.extend(texts)
        if kind:
            kinds.extend([kind] * len(texts))
    rows = []
    for number, (location, texts, kinds, state) in enumerate(captions.values()):
        meta = {"url" if location.startswith(WEB) else "file": location}
        state = state or ("" if location else NO_IMAGE)
        rows.append(Row(f"{number:09d}", location, texts, meta, kinds=kinds, state=state))
    return rows


def _table(config: CaptionsConfig) -> Iterator[tuple[str, str, list[Any], str]]:
    """(location, kind, captions, "") of each row of the table, for each kind, or ("", "", [], why it has none)."""
    columns = {f"kinds.{kind}" if kind else "caption": column for kind, column in config.columns}
    for row in named_table(config.source, {"image": config.image, **columns}):
        if isinstance(row, str):
            yield "", "", [], row
        else:
            image = image_in(row, config.image, config.source)
            for kind, column in config.columns:
                yield image, kind, as_list(row[column]), ""


def _folder(folder: Path, links: LinkConfig) -> tuple[list[Row], dict[str, str], Counter[str]]:
    """(rows, identity, suffix -> number of files that are neither image nor text) of a folder and its subfolders.

    A row is an image or a text without one, in the order of their names, and then each subfolder that is left out.
    """
    files, left_out = files_in(folder, links.follow_links)
    images = [file for file in files if _suffix(file) in IMAGES]
    if not images and not left_out:
        raise DataError(f"source={folder}: has no image; give a folder of {', '.join(IMAGES)}")
    texts: dict[str, list[str]] = {}
    for suffix in TEXTS:
        for file in files:
            if _suffix(file) == suffix:
                texts.setdefault(_stem(file), []).append(file)
    stems = set(map(_stem, images))
    lonely = {of_one[0] for stem, of_one in texts.items() if stem not in stems}
    digest = hashlib.sha256()
    rows = []
    for file in sorted([*images, *lonely]):
        digest.update(f"{file}\n{_size(folder / file)}\n".encode("utf-8", "replace"))
        captions, state = _captions(folder, texts.get(_stem(file), []), links.follow_links, digest)
        state = NO_IMAGE if file in lonely else state
        kinds = list(captions.values()) if any(captions.values()) else []
        rows.append(Row("", file, list(captions), {"file": file}, kinds=kinds, state=state))
    others = [file for file in files if _suffix(file) not in (*IMAGES, *TEXTS)]
    left_out |= {file: MISSING for file in others if not (folder / file).exists()}  # perhaps links to folders
    rows += [Row("", name, [], {"file": name}, state=state) for name, state in left_out.items()]
    unread = Counter(_suffix(file) or "no suffix" for file in others if file not in left_out)
    identity = {"source": digest.hexdigest(), **links.link_rule}
    return [row._replace(key=f"{number:09d}") for number, row in enumerate(rows)], identity, most_frequent(unread)


def _captions(
    folder: Path, texts: list[str], follow_links: bool, digest: "hashlib._Hash"
) -> tuple[dict[str, str], str]:
    """(captions of the first of `texts` that has any, with their kinds, ""), or ({}, why there are none).

    `digest` takes what was read.
    """
    state = ""
    for text in texts:
        content, captions, state = _read_text(folder, text, follow_links)
        digest.update(f"{text}\n{len(content)}\n".encode("utf-8", "replace") + content)
        if captions:
            return captions, ""
    if not texts:
        digest.update(b"None\n0\n")
    return {}, state


def _read_text(folder: Path, name: str, follow_links: bool) -> tuple[bytes, dict[str, str], str]:
    """(contents, captions with their kinds, "") of a text beside an image, or (what could be read, {}, why it has none)."""
    content = b""
    try:
        content = read_local(local_path(str(folder), name, follow_links), MAX_CAPTION_BYTES, CAPTIONS_TOO_LARGE)
        if _suffix(name) == ".txt":
            return content, clean_captions(io.StringIO(decode_text(content), newline=None)), ""
        return content, dict(parse_caption_member("json", content)[0]), ""
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
