"""Images that occur more than once, by two hashes of 16 bytes for each."""

from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
"""uint64 (images, 2); a row of zeros where the hash is unknown."""
Rows = npt.NDArray[np.int64]

BYTES = 16
"""Kept of a hash: among 14 million images, two different ones share them with a probability of 3e-25."""
NONE = bytes(BYTES)


class Duplicates(NamedTuple):
    """Images that equal an earlier one, ascending."""

    row: Rows
    first: Rows
    """The earliest equal image of each."""


def image_hash(image: bytes | memoryview) -> bytes:
    """Hash of an image as it is in the shard."""
    return blake2b(image, digest_size=BYTES).digest()


def original_hash(meta: dict[str, Any]) -> bytes:
    """The start of the `sha256` of the original image in a record's json; zeros where it has none."""
    try:
        return bytes.fromhex(meta["sha256"])[:BYTES].ljust(BYTES, b"\0")
    except (KeyError, TypeError, ValueError):
        return NONE


def find_duplicates(images: Hashes, originals: Hashes) -> Duplicates:
    """Every image whose stored bytes, or whose original, an earlier image has too.

    14 million images need about 0.35 GB besides the hashes themselves (0.45 GB).
    """
    found = [_by_one_hash(images), _by_one_hash(originals)]
    row, place = np.unique(np.concatenate([duplicates.row for duplicates in found]), return_index=True)
    return Duplicates(row, np.concatenate([duplicates.first for duplicates in found])[place])


def _by_one_hash(hashes: Hashes) -> Duplicates:
    """A sort by the first half of the hash leaves equal images side by side, in their order."""
    order = np.argsort(hashes[:, 0], kind="stable")
    halves = hashes[:, 0][order]
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (halves[1:] == halves[:-1]) & (halves[1:] != 0)
    del halves
    same[1:][same[1:]] = hashes[order[1:][same[1:]], 1] == hashes[order[:-1][same[1:]], 1]
    starts = np.flatnonzero(~same)
    at = np.flatnonzero(same)
    first = order[starts[np.searchsorted(starts, at) - 1]]
    row = order[at]
    ascending = np.argsort(row)
    return Duplicates(row[ascending], first[ascending])
