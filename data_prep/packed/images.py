"""Images that lie in a file together with others: in a tar, or taken from a table."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from bridgetower_train.data.image import check_image
from bridgetower_train.data.shards import BadRecordError
from bridgetower_train.errors import FileError
from bridgetower_train.foreign import open_regular
from data_prep.packed.keep import Rule
from data_prep.packed.looks import Looks
from data_prep.parallel import ordered_map
from data_prep.source.image import encode
from data_prep.source.local import NOT_A_FILE, UNREADABLE
from data_prep.source.rows import OK, Images, Outcome, Place, Row

NEAR_DUPLICATE = "near-duplicate of an image in against"


@dataclass(frozen=True)
class PlacedImages(Images):
    """Reads the images at `Row.places`, and writes them with a shorter edge of `size` pixels."""

    size: int
    workers: int
    enlarge: bool = True
    """Smaller ones too; otherwise they keep their size. What is a JPEG of the right size already is kept as it is."""
    keep: Sequence[Rule] = ()
    """Which to keep, by the row's `meta`, and by `width` and `height` of the first image, in pixels, where it lacks these."""
    against: Looks | None = None
    """Images that look like one of these are left out."""

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        return ordered_map(self._numbered, rows, self.workers)

    def _numbered(self, numbered: tuple[int, Row]) -> tuple[int, Outcome]:
        number, row = numbered
        try:
            return number, self._prepare(row, [_read(place) for place in row.places])
        except OSError as error:
            return number, Outcome(UNREADABLE, error.strerror or "")
        except BadRecordError as error:
            return number, Outcome(error.reason)

    def _prepare(self, row: Row, originals: list[bytes]) -> Outcome:
        images = [check_image(original) for original in originals]
        meta = {"width": images[0].width, "height": images[0].height}
        for rule in self.keep:
            if reason := rule.reason({**meta, **row.meta}):
                return Outcome(reason, meta=meta)
        prepared = []
        for image, original in zip(images, originals, strict=True):
            edge = min(image.width, image.height)
            smaller = edge < self.size and not self.enlarge
            pixels = image.decode(None if smaller else self.size)
            if self.against and (known := self.against.nearest(pixels)):
                return Outcome(NEAR_DUPLICATE, known, meta=meta)
            kept = image.is_plain and (smaller or edge == self.size)
            prepared.append(original if kept else encode(pixels))
        digest = row.meta.get("sha256") or sha256(b"".join(originals)).hexdigest()
        return Outcome(OK, "", prepared[0], {**meta, "sha256": digest}, prepared[1:])


def _read(place: Place) -> bytes:
    """OSError, or BadRecordError where the file ends before."""
    try:
        with open_regular(place.file) as file:
            data = os.pread(file.fileno(), place.size, place.offset)
    except FileError:
        raise BadRecordError(NOT_A_FILE) from None
    if len(data) != place.size:
        raise BadRecordError("file ends before the image")
    return data
