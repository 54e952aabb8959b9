"""`manifest.json`: what a corpus contains, shard by shard."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from bridgetower_train.errors import DataError

FORMAT = 1
"""Version of manifest and index; a reader reads its own version and older ones."""
MAX_MANIFEST = 1 << 30
"""Bytes of a manifest; one of a billion records has some 20 million."""


@dataclass(frozen=True)
class ShardInfo:
    """A shard as the manifest describes it."""

    name: str
    bytes: int
    records: int
    captions: int
    sha256: str


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
    format: int = FORMAT

    @property
    def title(self) -> str:
        """Name of the data set, common to its splits: `extra["about"]["title"]`, or else the corpus's own name."""
        about = self.extra.get("about")
        return str(about.get("title", self.corpus)) if isinstance(about, dict) else self.corpus

    @property
    def splits(self) -> list[str]:
        """The splits that it contains: `extra["source"]["splits"]` ("train, restval"); empty if not noted."""
        source = self.extra.get("source")
        noted = str(source.get("splits", "")) if isinstance(source, dict) else ""
        return [split for split in (part.strip() for part in noted.split(",")) if split]

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str | bytes, path: str) -> "Manifest":
        """Read `manifest.json`; DataError naming `path` if it is damaged or of a later format."""
        what_to_do = reindex_hint(os.path.dirname(path))
        try:
            values = json.loads(text)
            if values["format"] > FORMAT:
                version = values["format"]
                raise DataError(
                    f"{path}: has format {version}, and this version reads up to {FORMAT}; upgrade bridgetower-train"
                )
            shards = [ShardInfo(**shard) for shard in values.pop("shards")]
            manifest = Manifest(shards=shards, **values)
            agrees = (
                manifest.images == sum(shard.records for shard in shards) > 0
                and manifest.captions == sum(shard.captions for shard in shards)
                and manifest.caption_member in ("json", "txt")
                and all(os.path.basename(shard.name) == shard.name for shard in shards)
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: is not a manifest ({error!r}); {what_to_do}") from None
        if not agrees:
            raise DataError(f"{path}: its counts contradict each other; {what_to_do}")
        return manifest


def reindex_hint(folder: str) -> str:
    """What to do about a folder whose manifest, index and shards do not match."""
    return f"prepare the corpus again, or index the existing shards: bridgetower prep index root={folder}"
