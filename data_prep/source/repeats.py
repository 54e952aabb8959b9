"""Rows of a source whose URL an earlier row, or another source, has."""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def hash_urls(urls: Iterable[bytes]) -> Hashes:
    """64 bits of each URL's BLAKE2b: among 15 million URLs, two share them with a probability of 1 in 160,000."""
    blake2b = hashlib.blake2b
    return np.frombuffer(b"".join(blake2b(url, digest_size=8).digest() for url in urls), np.uint64)


class Repeats:
    """The first row of each URL, and the rows that repeat it; 8 bytes for each repeated row, a bit for each row."""

    def __init__(self, urls: Hashes, excluded: Hashes | None = None) -> None:
        """`urls`: the hash of each row's URL. `excluded`: hashes of URLs that belong to another source."""
        _, first, group = np.unique(urls, return_index=True, return_inverse=True)
        first = first[group]
        left_out = first != np.arange(len(urls))
        later = np.flatnonzero(left_out)
        later = later[np.argsort(first[later], kind="stable")]
        self._first, self._later = first[later].astype(np.uint32), later.astype(np.uint32)
        if excluded is not None and len(excluded):
            known = np.unique(excluded)
            left_out |= known[np.minimum(np.searchsorted(known, urls), len(known) - 1)] == urls
        self._left_out = np.packbits(left_out)

    def left_out(self, row: int) -> bool:
        """Whether an earlier row, or an excluded source, has the URL of `row`."""
        return bool(self._left_out[row >> 3] >> (7 - (row & 7)) & 1)

    def later(self, row: int) -> list[int]:
        """The rows that repeat the URL of `row`, where that is the first to have it."""
        start, stop = np.searchsorted(self._first, np.array([row, row + 1], np.uint32))
        return [int(later) for later in self._later[start:stop]]
