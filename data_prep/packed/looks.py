"""Near-duplicates: copies of an image at another size or quality, or cut a little, by a perceptual hash of 256 bits.

Of 82 photographs, copies at other sizes and qualities differed in up to 8 bits, copies without 2% at each side in 26 on average
and 46 at most, different photographs in 96 and more.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgetower_train.data.image import Pixels, decode, resize_shorter
from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import BadRecordError, Corpus, open_corpus
from bridgetower_train.errors import ConfigError
from bridgetower_train.versions import installed_version
from data_prep.parallel import ordered_map

NEAR_BITS = 40
"""Images whose hashes differ in at most so many bits look the same."""

_EDGE = 64  # pixels, the shorter edge of what is hashed
_SIDE = 16  # of the square of bits
_BITS = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)

Hash = npt.NDArray[np.uint16]
"""uint16 (16,)"""


def perceptual_hash(pixels: Pixels) -> Hash:
    """Of an image of any size."""
    from imagehash import phash  # optional, and scipy is slow to import

    return np.packbits(phash(Image.fromarray(resize_shorter(pixels, _EDGE)), _SIDE).hash).view(np.uint16)


class Looks:
    """What the images of some corpora look like. It may be pickled."""

    def __init__(self, names: Sequence[str], hashes: npt.NDArray[np.uint16]) -> None:
        """`hashes`: uint16 (2 * names, 16), of whole images and then of their centre squares."""
        self._names = names
        self._hashes = hashes

    def nearest(self, pixels: Pixels) -> str:
        """`corpus/key` of the image that `pixels` are a near-duplicate of, of its whole or of its centre square; or ""."""
        if not self._names:
            return ""
        distances = _BITS[self._hashes ^ perceptual_hash(pixels)].sum(axis=1, dtype=np.int64)
        first = int(distances.argmin())
        return self._names[first % len(self._names)] if distances[first] <= NEAR_BITS else ""


def looks_of(folders: Sequence[str], workers: int, follow_links: bool) -> Looks:
    """What the images of local corpora, the key `against`, look like; those that cannot be decoded are passed over.

    ConfigError where one is remote or ImageHash is not installed; errors as of `open_corpus`.
    """
    if folders and installed_version("imagehash") is None:
        raise ConfigError("against: ImageHash is not installed: pip install 'bridgetower-train[similar]'")
    names: list[str] = []
    hashes: list[npt.NDArray[np.uint16]] = []
    for folder in folders:
        corpus = open_against(folder, follow_links)
        for name, found in ordered_map(partial(_look, corpus), range(corpus.manifest.images), workers):
            if name:
                names.append(f"{corpus.name}/{name}")
                hashes.append(found)
    both = np.array(hashes, np.uint16).reshape(-1, 2, _SIDE)
    return Looks(names, np.concatenate([both[:, 0], both[:, 1]]))


def open_against(folder: str, follow_links: bool) -> Corpus:
    """A corpus of `against`. ConfigError where it is remote; errors as of `open_corpus`."""
    if is_remote(folder):
        raise ConfigError(f"against={folder}: is remote; copy the corpus to this machine")
    path = Path(folder.removeprefix("file://"))
    return open_corpus(str(path.parent), path.name, follow_links=follow_links)


def _look(corpus: Corpus, row: int) -> tuple[str, npt.NDArray[np.uint16]]:
    """(key, the two hashes) of a record; the key is empty where the record cannot be used."""
    try:
        pixels = decode(corpus.read(row).image, _EDGE)
    except BadRecordError:
        return "", np.zeros((2, _SIDE), np.uint16)
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = pixels[top : top + edge, left : left + edge]
    return corpus.key(row), np.stack([perceptual_hash(pixels), perceptual_hash(np.ascontiguousarray(square))])
