"""Tars of others, taken apart into records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from bridgetower_train.data.tar import Gap, Member, member_key, walk_tar

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of image members; where a record has several, the first of these is taken."""
SECOND = "1.jpg"
"""Suffix of a record's second image, in our corpora of pairs of images."""
CAPTIONS = ("json", "txt")
"""Suffixes of the members with captions."""
SPARSE = "sparse in the tar"
"""The state of a record whose members have holes, which are not in the tar."""


class Loss(NamedTuple):
    """Something in a tar that belongs to no record."""

    where: str
    reason: str


@dataclass
class Contents:
    """What the headers of a tar say."""

    records: dict[str, dict[str, Member]] = field(default_factory=dict)
    """Key -> suffix -> member."""
    lost: list[Loss] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """Suffix -> members that are neither images nor captions."""
    others: dict[str, str] = field(default_factory=dict)
    """Key -> the first of these members that has it."""


def contents_of(file: BinaryIO, captions: Sequence[str] = CAPTIONS) -> Contents:
    """Walk over a tar; `captions`: suffixes of the members that are kept besides images."""
    contents = Contents()
    for found in walk_tar(file):
        if isinstance(found, Gap):
            contents.lost.append(Loss(f"bytes {found.offset}-{found.offset + found.size}", found.reason))
            continue
        key, suffix = member_key(found.name)
        if suffix not in IMAGES and suffix not in captions:
            contents.unread[suffix] += 1
            contents.others.setdefault(key, found.name)
            continue
        parts = contents.records.setdefault(key, {})
        if suffix in parts:
            contents.lost.append(Loss(found.name, "duplicate member"))
            if len(parts) == 1:  # the other member of the first one is lost: do not take that of the second
                parts.clear()
        parts.setdefault(suffix, found)
    return contents
