"""`manifest.json`: what a corpus holds, shard by shard."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from bridgetower_train.errors import DataError

FORMAT = 1
"""Version of manifest and index; a reader takes its own and older ones."""


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
    """`manifest.json`: what a corpus holds. It is written last, so where it is the corpus is whole."""

    corpus: str
    image_size: int | None
    """Shorter edge of every image, pixels; None where they differ."""
    caption_member: str
    """`json` or `txt`: the member that holds the captions."""
    shards: list[ShardInfo]
    images: int
    captions: int
    index_sha256: str
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> how many source rows or records were left out for it."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Notes of whoever wrote the corpus."""
    format: int = FORMAT

    @property
    def title(self) -> str:
        """Name of the data set, which its splits share: `extra["about"]["title"]`, or else the corpus's own name."""
        about = self.extra.get("about")
        return str(about.get("title", self.corpus)) if isinstance(about, dict) else self.corpus

    @property
    def splits(self) -> list[str]:
        """The splits of the data set that it holds: `extra["source"]["splits"]` ("train, restval"); empty where not noted."""
        source = self.extra.get("source")
        noted = str(source.get("splits", "")) if isinstance(source, dict) else ""
        return [split for split in (part.strip() for part in noted.split(",")) if split]

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str | bytes, path: str) -> "Manifest":
        """Read `manifest.json`; DataError naming `path` where it is broken or of a later format."""
        what_to_do = mend(os.path.dirname(path))
        try:
            values = json.loads(text)
            if values["format"] > FORMAT:
                version = values["format"]
                raise DataError(f"{path}: has format {version}, known here is {FORMAT}; upgrade bridgetower-train")
            shards = [ShardInfo(**shard) for shard in values.pop("shards")]
            manifest = Manifest(shards=shards, **values)
            agrees = (
                manifest.images == sum(shard.records for shard in shards) > 0
                and manifest.captions == sum(shard.captions for shard in shards)
                and manifest.caption_member in ("json", "txt")
                and all(os.path.basename(shard.name) == shard.name for shard in shards)
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: is no manifest ({error!r}); {what_to_do}") from None
        if not agrees:
            raise DataError(f"{path}: contradicts itself; {what_to_do}")
        return manifest


def mend(folder: str) -> str:
    """What to do about a folder whose manifest, index or shards do not fit each other."""
    return f"write the corpus again, or index the shards that are there: bridgetower prep index root={folder}"
