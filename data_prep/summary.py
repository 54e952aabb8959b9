"""What was written, in a sentence."""

from pathlib import Path

from bridgetower_train.data.manifest import Manifest


def summary(folder: Path) -> str:
    """Counts of a corpus and what was left out of it, from its manifest."""
    path = folder / "manifest.json"
    manifest = Manifest.from_json(path.read_bytes(), str(path))
    edge = "" if manifest.image_size is None else f" with a shorter edge of {manifest.image_size} px"
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    dropped = "".join(f", {number:,} left out ({reason})" for reason, number in sorted(manifest.dropped.items()))
    shards = "shard" if len(manifest.shards) == 1 else "shards"
    return (
        f"{manifest.corpus}: {manifest.images:,} pictures{edge} and {manifest.captions:,} captions in "
        f"{len(manifest.shards):,} {shards}, {megabytes:,.1f} MB{dropped}: {folder}"
    )
