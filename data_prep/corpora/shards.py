"""Shards that others made: any set of WebDataset tars, local or remote, as a corpus of ours."""

import os
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from bridgetower_train.config import one_of
from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    IMAGE_TOO_LARGE,
    MAX_CAPTION_BYTES,
    MAX_IMAGE_BYTES,
    BadRecordError,
    parse_caption_member,
)
from bridgetower_train.data.tar import Member
from bridgetower_train.display import without_secrets
from bridgetower_train.foreign import decode_text
from data_prep.job.job import PrepConfig, run_parts
from data_prep.source.keep import parse_keep
from data_prep.source.local import LinkConfig
from data_prep.source.looks import looks_of, open_against
from data_prep.source.placed import PlacedImages
from data_prep.source.rows import Part, PartError, Parts, Place, Row
from data_prep.source.tars import CAPTIONS, IMAGES, SPARSE, Loss, bring, contents_of, local_size, named_tars, open_tar, tar_name

NO_IMAGE = "no image"
NO_RECORD = "no record in it"
MISSING_TAR = "missing tar"

_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_WEB = ("http://", "https://")
_OURS = ("captions", "caption")
_AHEAD_REMOTE, _AHEAD_LOCAL = 4, 1  # tars


@dataclass(frozen=True)
class ShardsConfig(LinkConfig, PrepConfig):
    """`bridgetower prep shards`: write any WebDataset tars (img2dataset's, webdataset's, the hub's) as a corpus."""

    source: str = "???"
    """Tars, with braces as in 'cc3m-{0000..0575}.tar', several in brackets or between `::`; or a folder of tars. Each may be a path
    or a URL (hf://, s3://, gs://, https://, ...), or with allow_pipe a command that writes a tar, as 'pipe:CMD'."""
    allow_pipe: bool = False
    """Run the commands that `source` names."""
    captions: list[str] = field(default_factory=list)
    """Where a record has its captions: keys of its json (a text or a list, dots lead to nested ones) and suffixes of members with a
    text; those of all count. Empty: `captions` or `caption` of the json, or else the txt."""
    resize: str = "all"
    """`all`: every image gets a shorter edge of `size`; `larger`: only those with a longer one, others keep their size. JPEGs whose
    size is right already are not encoded again."""
    keep: str = ""
    """Which records to keep, by the columns of their json and by `width` and `height`: "similarity>0.28 and width>=200"; with `and`,
    `or`, `not`, parentheses, and texts in quotes."""
    against: list[str] = field(default_factory=list)
    """Folders of corpora for evaluation: what looks like one of their images is left out. Needs ImageHash."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("resize", self.resize, ("all", "larger"))


def run(config: ShardsConfig) -> None:
    """Write the corpus, or resume.

    ConfigError where `source` names no tars or one that is not there, or where `keep` is none; DataError where a tar cannot be read.
    """
    rules = parse_keep(config.keep)
    tars = named_tars(config.source, config.allow_pipe, config.follow_links)
    parts = TarParts(tars, config)
    images = PlacedImages(
        config.size,
        config.workers,
        config.resize == "all",
        rules,
        looks_of(config.against, config.workers, config.follow_links) if config.against else None,
    )
    others = f" and {len(tars) - 1:,} others" if tars[1:] else ""
    note = f"prepared from {tar_name(tars[0])}{others}"
    about = {"title": config.name, "homepage": "", "licence": "", "note": note}
    run_parts(config, parts, images, about, None, {"size": config.size}, config.resize == "all")


class TarParts(Parts):
    """Tars, each of which becomes a shard."""

    total = None

    def __init__(self, tars: list[str], config: ShardsConfig) -> None:
        self.ahead = _AHEAD_LOCAL if all(local_size(tar) is not None for tar in tars) else _AHEAD_REMOTE
        self._tars = tars
        self._captions, self._follow_links = tuple(config.captions), config.follow_links
        named = "".join(f"{without_secrets(tar)}\n{local_size(tar)}\n" for tar in tars)
        choices = {
            "captions": ", ".join(config.captions),
            "resize": config.resize if config.resize != "all" else "",
            "keep": config.keep,
            "against": " ".join(open_against(folder, config.follow_links).digest for folder in config.against),
        }
        self._identity = {"tars": f"{len(tars)}", "source": sha256(named.encode("utf-8", "replace")).hexdigest()}
        self._identity |= {key: value for key, value in choices.items() if value} | config.link_rule

    def __len__(self) -> int:
        return len(self._tars)

    def part(self, number: int) -> Part:
        return TarPart(number, self._tars[number], self._captions, self._follow_links)

    def identity(self) -> dict[str, str]:
        return self._identity


@dataclass
class TarPart(Part):
    """The records of a tar."""

    number: int
    tar: str
    captions: tuple[str, ...]
    follow_links: bool
    first: int = 0
    fetched: Path | None = None

    def rows(self, folder: Path) -> list[Row]:
        """A row for each record, and for each stretch or member that belongs to none."""
        self.fetched = folder / f"{self.number:06d}.source"
        try:
            path = bring(self.tar, self.fetched, self.follow_links)
            with open_tar(path) as file:
                return self._rows(file, str(path)) or [self._left_out(0, "", NO_RECORD)]
        except FileNotFoundError:
            return [self._left_out(0, "", MISSING_TAR)]
        except BadRecordError as error:
            return [self._left_out(0, "", error.reason)]
        except OSError as error:
            raise PartError(f"{self.tar}: cannot be read ({error.strerror or error})") from error

    def close(self) -> None:
        if self.fetched is not None:
            self.fetched.unlink(missing_ok=True)

    def _rows(self, file: BinaryIO, path: str) -> list[Row]:
        contents = contents_of(file, (*CAPTIONS, *self.captions))
        rows = [
            self._row(file, path, number, key, parts)
            for number, (key, parts) in enumerate(contents.records.items())
        ]
        lost = contents.lost + [
            Loss(name, NO_IMAGE) for key, name in contents.others.items() if key not in contents.records
        ]
        return rows + [self._left_out(number, *loss) for number, loss in enumerate(lost, len(rows))]

    def _row(self, file: BinaryIO, path: str, number: int, key: str, parts: dict[str, Member]) -> Row:
        plain = key.removeprefix("./")
        row = Row(f"{self.number:06d}-{number:06d}", f"{tar_name(self.tar)}/{plain}", [], {"key": plain})
        if _KEY.fullmatch(plain):
            row = row._replace(key=plain, meta={})
        image = next((parts[suffix] for suffix in IMAGES if suffix in parts), None)
        if image is None:
            return row._replace(state=NO_IMAGE)
        if image.size > MAX_IMAGE_BYTES:
            return row._replace(state=IMAGE_TOO_LARGE)
        if any(part.sparse for part in parts.values()):
            return row._replace(state=SPARSE)
        try:
            captions, meta = _texts(file, parts, self.captions)
        except BadRecordError as error:
            return row._replace(state=error.reason)
        url = meta.get("url")
        return row._replace(
            location=url if isinstance(url, str) and url.startswith(_WEB) else row.location,
            captions=captions,
            meta={**_noted(meta), **row.meta},
            place=Place(path, image.offset, image.size),
        )

    def _left_out(self, number: int, where: str, reason: str) -> Row:
        location = " ".join(filter(None, (tar_name(self.tar), where)))
        return Row(f"{self.number:06d}-{number:06d}", location, [], state=reason)


def _texts(file: BinaryIO, parts: dict[str, Member], wanted: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """(captions, json) of a record. BadRecordError where a member that may have captions cannot be read."""
    captions: list[Any] = []
    meta: dict[str, Any] = {}
    if "json" in parts:
        try:
            found, meta = parse_caption_member("json", _contents(file, parts["json"]))
            captions += found
        except BadRecordError:
            if wanted or "txt" not in parts:
                raise
    if not wanted:
        return captions or ([decode_text(_contents(file, parts["txt"]))] if "txt" in parts else []), meta
    captions = []
    for name in wanted:
        value = decode_text(_contents(file, parts[name])) if name in parts and name != "json" else _nested(meta, name)
        captions += value if isinstance(value, list) else [value]
    return captions, meta


def _contents(file: BinaryIO, member: Member) -> bytes:
    if member.size > MAX_CAPTION_BYTES:
        raise BadRecordError(CAPTIONS_TOO_LARGE)
    return os.pread(file.fileno(), member.size, member.offset)


def _nested(meta: dict[str, Any], name: str) -> Any:
    found: Any = meta
    for key in [name] if name in meta else name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _noted(meta: dict[str, Any]) -> dict[str, Any]:
    """What joins the captions in our record."""
    noted = {key: value for key, value in meta.items() if key not in _OURS}
    if not _SHA256.fullmatch(str(noted.get("sha256"))):
        noted.pop("sha256", None)
    return noted
