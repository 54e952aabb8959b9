"""Shards that others made: any set of WebDataset tars, local or remote, as a corpus of ours."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bridgetower_train.config import one_of
from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    MAX_CAPTION_BYTES,
    BadRecordError,
    Captions,
    as_list,
    parse_caption_member,
)
from bridgetower_train.data.tar import Member
from bridgetower_train.errors import FileError
from bridgetower_train.foreign import decode_text, open_regular
from data_prep.job.job import PrepConfig, run_parts
from data_prep.packed.files import FilePart, FileParts, about_files, named_files, short_name
from data_prep.packed.images import PlacedImages
from data_prep.packed.keep import parse_keep
from data_prep.packed.looks import looks_of, open_against
from data_prep.packed.tars import CAPTIONS, SPARSE, Loss, contents_of, images_of
from data_prep.source.captions import check_kinds
from data_prep.source.local import NOT_A_FILE, LinkConfig
from data_prep.source.rows import NO_IMAGE, WEB, Part, Place, Row

NO_RECORD = "no record in it"

_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_OURS = ("captions", "caption", "kinds")


@dataclass(frozen=True)
class ShardsConfig(LinkConfig, PrepConfig):
    """`bridgetower prep shards`: write any WebDataset tars (img2dataset's, webdataset's, the hub's) as a corpus."""

    source: str = "???"
    """Tars, with braces or * as in 'cc3m-{0000..0575}.tar', several in brackets or between `::`; or a folder of tars. Each may
    be a path or a URL (hf://, s3://, gs://, https://, ...), or with allow_pipe a command that writes a tar, as 'pipe:CMD'."""
    allow_pipe: bool = False
    """Run the commands that `source` names."""
    captions: list[str] = field(default_factory=list)
    """Where a record has its captions: keys of its json (a text or a list, dots lead to nested ones) and suffixes of members
    with a text; those of all count. Empty: `captions` or `caption` of the json, or else the txt."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Captions of several kinds, instead of `captions`: kind -> where it is, as {alt: caption, synthetic: blip}; a run may draw
    them by shares (`data.captions`)."""
    resize: str = "all"
    """`all`: every image gets a shorter edge of `size`; `larger`: only those with a longer one, others keep their size. JPEGs
    whose size is right already are not encoded again."""
    keep: str = ""
    """Which records to keep, by the columns of their json and by `width` and `height`: "similarity>0.28 and width>=200"; with
    `and`, `or`, `not`, parentheses, and texts in quotes."""
    against: list[str] = field(default_factory=list)
    """Folders of corpora for evaluation: what looks like one of their images is left out. Needs ImageHash."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("resize", self.resize, ("all", "larger"))
        check_kinds(self.kinds)

    @property
    def wanted(self) -> list[tuple[str, str]]:
        """(kind, or "", key or suffix) of all captions."""
        return list(self.kinds.items()) or [("", name) for name in self.captions]


def run(config: ShardsConfig) -> None:
    """Write the corpus, or resume.

    ConfigError where `source` names no tars or one that is not there, or `keep` is no rule; DataError where a tar cannot be read.
    """
    rules = parse_keep(config.keep)
    tars = named_files(config.source, ".tar", config.allow_pipe, config.follow_links)
    choices = {
        "captions": "" if config.kinds else ", ".join(config.captions),
        "kinds": json.dumps(config.kinds) if config.kinds else "",
        "resize": config.resize if config.resize != "all" else "",
        "keep": config.keep,
        "against": " ".join(open_against(folder, config.follow_links).digest for folder in config.against),
        **config.link_rule,
    }
    parts = TarParts(tars, config.follow_links, choices, config.wanted)
    looks = looks_of(config.against, config.workers, config.follow_links) if config.against else None
    images = PlacedImages(config.size, config.workers, config.resize == "all", rules, looks)
    about = {"title": config.name, "homepage": "", "licence": "", "note": about_files(tars)}
    run_parts(config, parts, images, about, None, {"size": config.size}, config.resize == "all")


class TarParts(FileParts):
    """Tars."""

    def __init__(
        self, names: list[str], follow_links: bool, choices: dict[str, str], wanted: list[tuple[str, str]]
    ) -> None:
        super().__init__(names, follow_links, choices)
        self._wanted = wanted

    def part(self, number: int) -> Part:
        return TarPart(number, self.names[number], self.follow_links, wanted=self._wanted)


@dataclass
class TarPart(FilePart):
    """The records of a tar."""

    wanted: list[tuple[str, str]] = field(default_factory=list)
    """(kind, or "", key or suffix) of the captions; empty: as `captions` is."""

    def read(self, path: Path) -> list[Row]:
        """A row for each record, and for each stretch or member that belongs to none."""
        try:
            tar = open_regular(path)
        except FileError:
            raise BadRecordError(NOT_A_FILE) from None
        with tar as file:
            contents = contents_of(file, (*CAPTIONS, *(name for _, name in self.wanted)))
            records = enumerate(contents.records.items())
            rows = [self._row(file, str(path), number, key, parts) for number, (key, parts) in records]
        lost = contents.lost + [
            Loss(name, NO_IMAGE) for key, name in contents.others.items() if key not in contents.records
        ]
        rows += [self.left_out(number, *loss) for number, loss in enumerate(lost, len(rows))]
        return rows or [self.left_out(0, "", NO_RECORD)]

    def _row(self, file: BinaryIO, path: str, number: int, key: str, parts: dict[str, Member]) -> Row:
        plain = key.removeprefix("./")
        row = Row(self.key(number), f"{short_name(self.name)}/{plain}", [], {"key": plain})
        if _KEY.fullmatch(plain):
            row = row._replace(key=plain, meta={})
        try:
            images = images_of(parts)
            if any(part.sparse for part in parts.values()):
                raise BadRecordError(SPARSE)
            captions, kinds, meta = _texts(file, parts, self.wanted)
        except BadRecordError as error:
            return row._replace(state=error.reason)
        url = meta.get("url")
        return row._replace(
            location=url if isinstance(url, str) and url.startswith(WEB) else row.location,
            captions=captions,
            kinds=kinds,
            meta={**_noted(meta), **row.meta},
            places=[Place(path, image.offset, image.size) for image in images],
        )


def _texts(
    file: BinaryIO, parts: dict[str, Member], wanted: list[tuple[str, str]]
) -> tuple[list[Any], list[str], dict[str, Any]]:
    """(captions, their kinds or [], json) of a record. BadRecordError where a member that may have captions cannot be read."""
    found: Captions = []
    meta: dict[str, Any] = {}
    if "json" in parts:
        try:
            found, meta = parse_caption_member("json", _contents(file, parts["json"]))
        except BadRecordError:
            if wanted or "txt" not in parts:
                raise
    if not wanted:
        if not found and "txt" in parts:
            found = [(decode_text(_contents(file, parts["txt"])), "")]
        kinds = [kind for _, kind in found]
        return [caption for caption, _ in found], kinds if any(kinds) else [], meta
    captions: list[Any] = []
    kinds = []
    for kind, name in wanted:
        value = decode_text(_contents(file, parts[name])) if name in parts and name != "json" else _nested(meta, name)
        captions += as_list(value)
        kinds += [kind] * len(as_list(value))
    return captions, kinds if any(kinds) else [], meta


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
