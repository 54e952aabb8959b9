"""Images in a local folder, and tables that fit into memory."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path

from bridgetower_train.data.shards import IMAGE_TOO_LARGE, MAX_IMAGE_BYTES, BadRecordError
from bridgetower_train.errors import FileError
from bridgetower_train.foreign import inside, open_regular
from data_prep.parallel import ordered_map
from data_prep.source.image import prepare
from data_prep.source.rows import OK, Images, Outcome, Row, Table

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
"""Suffixes of images, in small letters."""

MISSING = "missing file"
UNREADABLE = "file cannot be read"
NOT_A_FILE = "not a regular file"
OUTSIDE = "outside the folder"
LINK_OUT = "link out of the folder (see follow_links)"


@dataclass(frozen=True)
class LinkConfig:
    """The key of every command that reads local files of others."""

    follow_links: bool = False
    """Read files that are links to somewhere outside their folder, as those of DVC, git-annex and the hub's cache are. The folder
    itself may always be a link; paths such as `../x.jpg` are never followed."""

    @property
    def link_rule(self) -> dict[str, str]:
        """Its part in the identity of a table: rows may have other outcomes if it changes."""
        return {"follow_links": "true"} if self.follow_links else {}


class RowList(Table):
    """A table in memory."""

    def __init__(self, rows: Sequence[Row], identity: dict[str, str]) -> None:
        self._rows = rows
        self._identity = identity

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, stop: int) -> list[Row]:
        return list(self._rows[start:stop])

    def identity(self) -> dict[str, str]:
        return self._identity


class LocalImages(Images):
    """Images whose location is a path in one of some folders, or in a subfolder of these; the first that has it counts."""

    def __init__(
        self,
        folder: str | Path | Sequence[str],
        size: int | None,
        workers: int,
        follow_links: bool = False,
        subfolders: Sequence[str] = ("",),
        enlarge: bool = True,
    ) -> None:
        """size: shorter edge of the images for the shards, pixels; it and `enlarge` as of `prepare`. follow_links: as the key."""
        self._folders = [str(folder)] if isinstance(folder, str | Path) else list(folder)
        self._size = size
        self._workers = workers
        self._follow_links = follow_links
        self._subfolders = subfolders
        self._enlarge = enlarge

    def has_any(self, rows: Iterator[Row]) -> bool:
        """Whether at least one of the rows' images is in the folder, be it as a link that may not be followed."""
        return any(self._is_there(row) for row in rows)

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        return ordered_map(self._numbered, rows, self._workers)

    def prepare(self, row: Row) -> Outcome:
        """Read the image of a row, or its images, and encode them for the shard.

        `sha256` is then that of all originals, one behind the other; `width` and `height` are those of the first.
        """
        digest, prepared = sha256(), list[tuple[bytes, int, int]]()
        try:
            found = [self._find(location) for location in (row.location, *row.further)]
            if None in found:
                there = len(found) - found.count(None)
                return Outcome(f"only {there} of {len(found)} images" if there else MISSING)
            for path in filter(None, found):
                original = read_local(path, MAX_IMAGE_BYTES, IMAGE_TOO_LARGE)
                digest.update(original)
                prepared.append(prepare(original, self._size, self._enlarge))
        except OSError as error:
            return Outcome(UNREADABLE, error.strerror or "")
        except BadRecordError as error:
            return Outcome(error.reason)
        (jpeg, width, height), *further = prepared
        meta = {"sha256": digest.hexdigest(), "width": width, "height": height}
        return Outcome(OK, "", jpeg, meta, [image for image, _, _ in further])

    def _numbered(self, numbered: tuple[int, Row]) -> tuple[int, Outcome]:
        number, row = numbered
        return number, self.prepare(row)

    def _is_there(self, row: Row) -> bool:
        try:
            return self._find(row.location) is not None
        except BadRecordError as error:
            return error.reason == LINK_OUT

    def _find(self, location: str) -> Path | None:
        if "\0" in location:
            return None
        refused = None
        for folder, subfolder in product(self._folders, self._subfolders):
            try:
                path = local_path(folder, os.path.join(subfolder, location), self._follow_links)
            except BadRecordError as error:
                refused = error
            else:
                if os.path.exists(path) and not os.path.isdir(path):
                    return path
        if refused:
            raise refused
        return None


def files_in(folder: str | Path, follow_links: bool) -> tuple[list[str], dict[str, str]]:
    """(the files of a folder and its subfolders, by name; subfolder -> state of those that are left out).

    A link to a folder that leads outside is followed if `follow_links` says so, to each place once. One that leads inside gives
    nothing more.
    """
    found: list[str] = []
    left_out: dict[str, str] = {}
    root = os.path.realpath(folder)
    entered = {root}

    def lost(error: OSError) -> None:
        left_out[os.path.relpath(error.filename, folder)] = UNREADABLE

    def enter(path: str) -> bool:
        place = os.path.realpath(path)
        if os.path.islink(path):
            if os.path.commonpath([root, place]) == root:
                return False
            if not follow_links:
                left_out[os.path.relpath(path, folder)] = LINK_OUT
                return False
        new = place not in entered
        entered.add(place)
        return new

    for parent, folders, names in os.walk(folder, onerror=lost, followlinks=True):
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names]
        folders[:] = [name for name in sorted(folders) if enter(os.path.join(parent, name))]
    return sorted(found), left_out


def local_path(folder: str, name: str, follow_links: bool) -> Path:
    """The path of `name` in `folder`; BadRecordError, whose reason is a state, where it leads outside."""
    name = os.path.relpath(os.path.join(folder, name), folder)  # what tables name by absolute paths may well be inside
    try:
        return inside(folder, name, follow_links)
    except FileError:
        raise BadRecordError(OUTSIDE if name.split(os.sep)[0] == os.pardir else LINK_OUT) from None


def read_local(path: Path, limit: int, too_large: str) -> bytes:
    """The contents of a file. BadRecordError, whose reason is a state, where it is none or has over `limit` bytes; OSError."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise BadRecordError(too_large)
            return file.read(size)
    except FileError:
        raise BadRecordError(NOT_A_FILE) from None
