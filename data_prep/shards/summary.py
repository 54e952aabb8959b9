"""Printed summaries: what a corpus contains, and what was left out of it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bridgetower_train.data.manifest import Manifest
from bridgetower_train.display import plural, print_line, printable
from bridgetower_train.files import atomic_write
from data_prep.source.rows import OK

_SHOWN = 3
_LISTED, _OTHERS = 20, "others"


class LeftOut(NamedTuple):
    """An image of the source that is not in the corpus."""

    file: str
    reason: str


def list_left_out(folder: Path, left_out: Sequence[LeftOut]) -> None:
    """Print each reason with its first images, and list all of them in `dropped.jsonl`."""
    listing = folder / "dropped.jsonl"
    listing.unlink(missing_ok=True)
    for reason, count in Counter(image.reason for image in left_out).items():
        first = [image.file for image in left_out if image.reason == reason][:_SHOWN]
        print_line(f"left out, {reason}: {count:,} ({', '.join(first)}{', ...' if count > _SHOWN else ''})")
    if left_out:
        atomic_write(listing, "".join(json.dumps(image._asdict()) + "\n" for image in left_out))
        print_line(f"full list: {listing}")


def most_frequent(counts: Counter[str]) -> Counter[str]:
    """The most frequent counts, by name, and `others`, the sum of the rest: names of others may all be different."""
    named = Counter({name: count for name, count in counts.items() if name != _OTHERS})
    first = dict(sorted(named.most_common(_LISTED)))
    return +Counter({**first, _OTHERS: counts.total() - sum(first.values())})


def shard_bytes(manifest: Manifest) -> int:
    """Bytes of all shards of a corpus."""
    return sum(shard.bytes for shard in manifest.shards)


def summarize(manifest: Manifest, folder: str) -> str:
    """Counts of a corpus, and of its source's rows where a preparation has recorded them."""
    edge = "" if manifest.image_size is None else f" with a shorter edge of {manifest.image_size} px"
    named = ", ".join(f"{count:,} {kind}" for kind, count in manifest.kinds.items())
    captions = f"{manifest.captions:,} captions{f' ({named})' if named else ''}"
    lines = [
        f"{manifest.corpus}: {manifest.images:,} images{edge} and {captions} in "
        f"{plural(len(manifest.shards), 'shard')}, {shard_bytes(manifest) / 1e6:,.1f} MB: {folder}"
    ]
    states, rows = manifest.extra.get("states"), manifest.extra.get("rows")
    if isinstance(states, dict) and isinstance(rows, int) and rows > 0 and {*map(type, states.values())} == {int}:
        most_first = sorted(states.items(), key=lambda item: (item[0] != OK, -item[1]))
        lines += [f"  {count:>12,}  {count / rows:6.1%}  {state}" for state, count in most_first]
    repeated = manifest.extra.get("duplicates")
    if isinstance(repeated, dict) and {*map(type, repeated.values())} == {int}:
        lines += [f"  {count:>12,}  with the {kind} of an earlier one" for kind, count in sorted(repeated.items())]
    return "\n".join(map(printable, lines))
