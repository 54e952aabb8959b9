"""Tars of others, taken apart into records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from bridgetower_train.data.shards import IMAGE_TOO_LARGE, MAX_IMAGE_BYTES, BadRecordError
from bridgetower_train.data.tar import Gap, Member, member_key, walk_tar
from data_prep.source.rows import NO_IMAGE

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
    """Walk over a tar; `captions`: suffixes of the members that are kept besides images.

    A member named as a second image is kept where it is one: right behind a first that is named as ours are.
    """
    contents = Contents()
    for found in walk_tar(file):
        if isinstance(found, Gap):
            contents.lost.append(Loss(f"bytes {found.offset}-{found.offset + found.size}", found.reason))
            continue
        key, suffix = member_key(found.name)
        if suffix not in IMAGES and suffix != SECOND and suffix not in captions:
            contents.unread[suffix] += 1
            contents.others.setdefault(key, found.name)
            continue
        parts = contents.records.setdefault(key, {})
        if suffix in parts:
            contents.lost.append(Loss(found.name, "duplicate member"))
            if len(parts) == 1:  # the other member of the first one is lost: do not take that of the second
                parts.clear()
        parts.setdefault(suffix, found)
    for key, parts in list(contents.records.items()):
        first = parts.get(IMAGES[0])
        if SECOND in parts and (first is None or not first.is_before(parts[SECOND])):
            contents.unread[SECOND] += 1
            contents.others.setdefault(key, parts.pop(SECOND).name)
            if not parts:
                del contents.records[key]
    return contents


def images_of(parts: dict[str, Member]) -> list[Member]:
    """The images of a record, a second one behind the first; BadRecordError where it has none, or one is too large."""
    first = next((parts[suffix] for suffix in IMAGES if suffix in parts), None)
    if first is None:
        raise BadRecordError(NO_IMAGE)
    found = [first, parts[SECOND]] if SECOND in parts else [first]
    if any(member.size > MAX_IMAGE_BYTES for member in found):
        raise BadRecordError(IMAGE_TOO_LARGE)
    return found
