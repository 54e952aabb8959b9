"""`manifest.json`: what a corpus contains, shard by shard; and the file beside it that names the labels of a task, by number."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bridgetower_train.errors import DataError, FileError
from bridgetower_train.foreign import parse_json

FORMAT = 2
"""Newest version of manifest and index; a reader reads older ones too. Only `caption_keys` need 2, everything else 1."""
ANSWERS = "answers.json"
"""The file of names where labels are answers, the most frequent first. A run and its export keep it too."""
CLASSES = "classes.json"
"""The same for other labels."""
MAX_EDGE = 10_000
"""Pixels that the shorter edge of an image can have."""

_MOST = 1 << 53  # of bytes and counts


@dataclass(frozen=True)
class ShardInfo:
    """A shard as the manifest describes it."""

    name: str
    bytes: int
    records: int
    captions: int
    sha256: str
    kinds: dict[str, int] = field(default_factory=dict)
    """Kind -> captions of that kind; those without one are not counted."""

    def noted(self) -> dict[str, Any]:
        """Its fields as they are stored: kinds only where there are any."""
        return {name: value for name, value in asdict(self).items() if name != "kinds" or value}


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: what a corpus contains. It is written last: a corpus that has one is complete."""

    corpus: str
    image_size: int | None
    """Shorter edge of every image, pixels; None if they differ."""
    caption_member: str
    """`json` or `txt`: the tar member with the captions."""
    shards: list[ShardInfo]
    images: int
    captions: int
    index_sha256: str
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> number of source rows or records that were left out."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Notes of the program that wrote the corpus."""
    caption_keys: dict[str, str] = field(default_factory=dict)
    """Kind of caption -> key of the json with its captions. Empty: they are under `captions` or `caption`."""
    format: int = 1

    @property
    def title(self) -> str:
        """Name of the data set, common to its splits: `extra["about"]["title"]`, or else the corpus's own name."""
        about = self.extra.get("about")
        return str(about.get("title", self.corpus)) if isinstance(about, dict) else self.corpus

    @property
    def fingerprints(self) -> list[str]:
        """What tells it from other corpora, whatever its name: the hash of its index, and where it notes one that of its source
        and counts, which another image size leaves as it is."""
        source = self.extra.get("source")
        noted = json.dumps([source, self.splits, self.images, self.captions], sort_keys=True)
        return [self.index_sha256, *([hashlib.sha256(noted.encode()).hexdigest()] if source else [])]

    @property
    def splits(self) -> list[str]:
        """The splits that it contains: `extra["source"]["splits"]` ("train, restval") or `extra["split"]`; empty if not noted."""
        source = self.extra.get("source")
        noted = str(source.get("splits", "")) if isinstance(source, dict) else ""
        noted = noted or str(self.extra.get("split", ""))
        return [split for split in (part.strip() for part in noted.split(",")) if split]

    @property
    def kinds(self) -> dict[str, int]:
        """Kind -> captions of that kind, by name; those without one are not counted."""
        return dict(sorted(sum((Counter(shard.kinds) for shard in self.shards), Counter[str]()).items()))

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        content = {name: value for name, value in asdict(self).items() if name != "caption_keys" or value}
        content["shards"] = [shard.noted() for shard in self.shards]
        return json.dumps(content, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str | bytes, path: str) -> "Manifest":
        """Read `manifest.json`; DataError naming `path` if it is damaged, impossible or of a later format."""
        what_to_do = reindex_hint(os.path.dirname(path))
        try:
            version = parse_json(text, _Version, path, what_to_do).format
            if version > FORMAT:
                raise DataError(
                    f"{path}: has format {version}, and this version reads up to {FORMAT}; upgrade bridgetower-train"
                )
            manifest = parse_json(text, Manifest, path, what_to_do)
        except FileError as error:
            raise DataError(str(error)) from None
        if fault := manifest._fault():
            raise DataError(f"{path}: {fault}; {what_to_do}")
        return manifest

    def _fault(self) -> str:
        """What cannot be so; an empty string if nothing is."""
        shards = self.shards
        numbers = [n for s in shards for n in (s.bytes, s.records, s.captions, *s.kinds.values())]
        if not all(0 <= n <= _MOST for n in (*numbers, self.images, self.captions, *self.dropped.values())):
            return "has a count that is negative or too large"
        if not (self.image_size is None or 1 <= self.image_size <= MAX_EDGE):
            return f"image_size={self.image_size} is not from 1 to {MAX_EDGE:,} pixels"
        for shard in shards:
            if shard.name in ("", ".", "..") or "/" in shard.name or "\0" in shard.name:
                return f"{shard.name!r} is not the name of a file beside it"
        if any(sum(shard.kinds.values()) > shard.captions for shard in shards):
            return "has more captions with a kind than captions"
        if self.caption_member not in ("json", "txt"):
            return f"caption_member={self.caption_member!r} is neither json nor txt"
        records, captions = sum(shard.records for shard in shards), sum(shard.captions for shard in shards)
        if not (self.images == records > 0 and self.captions == captions):
            return "its counts contradict each other"
        return ""


@dataclass(frozen=True)
class _Version:
    """The one field that all formats have."""

    format: int


def reindex_hint(folder: str) -> str:
    """What to do about a folder whose manifest, index and shards do not match."""
    return f"prepare the corpus again, or index the existing shards: bridgetower prep index root={folder}"


def as_file(names: Sequence[str]) -> str:
    """The text of a file of names."""
    return json.dumps(list(names), ensure_ascii=False, indent=0) + "\n"


def are_distinct(names: Sequence[str]) -> bool:
    """Whether there are any names, and none is there twice."""
    return 0 < len(names) == len({*names})
