"""Outcomes of the rows of an unfinished shard, stored as they come, so that a killed run fetches nothing twice."""

import fcntl
import json
import os
import struct
import zlib
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from bridgetower_train.files import open_own, own_folder, write_all
from bridgetower_train.foreign import parse_json
from bridgetower_train.lock import locked
from data_prep.source.rows import FORMER_STATES, Outcome

_Note = tuple[str, str, dict[str, Any]] | tuple[str, str, dict[str, Any], list[int]]
"""State, detail and meta of an outcome, and the sizes of its further images."""
_FRAME = struct.Struct("<QIII")  # row, bytes of json, bytes of images, CRC-32 of these three and both contents
_HEAD = struct.Struct("<QII")
_MAX_NOTE, _MAX_JPEG = 16 << 20, 1 << 29  # bytes, more than any outcome has


class Spool:
    """A file of outcomes, each in a frame with a checksum; a torn frame, left by a kill or a full disk, is cut off.

    Opening it waits until no other process has it open, as when a task that was believed lost runs a second time. FileError if
    something else has its name.
    """

    def __init__(self, path: Path) -> None:
        own_folder(path.parent)
        self._path = path
        self._file = open_own(path, os.O_APPEND)
        locked(self._file, fcntl.LOCK_EX)
        self._places: dict[int, tuple[int, int, int]] = {}  # row -> offset of its json, bytes of json and images
        self._end = 0
        self._read()

    def __contains__(self, row: int) -> bool:
        return row in self._places

    def add(self, row: int, outcome: Outcome) -> None:
        """Append an outcome. The first one of a row counts."""
        images = b"".join((outcome.jpeg, *outcome.further))
        sizes = [list(map(len, outcome.further))] if outcome.further else []
        text = json.dumps([outcome.state, outcome.detail, outcome.meta, *sizes], ensure_ascii=False)
        note = text.encode("utf-8", "replace")
        head = _HEAD.pack(row, len(note), len(images))
        crc = zlib.crc32(images, zlib.crc32(note, zlib.crc32(head)))
        data = b"".join((head, crc.to_bytes(4, "little"), note, images))
        self._places.setdefault(row, (self._end + _FRAME.size, len(note), len(images)))
        self._end += len(data)
        write_all(self._file, data)

    def get(self, row: int) -> Outcome:
        """The outcome of a row that is in it. FileError if it is not what `add` writes."""
        start, note, images = self._places[row]
        self._file.seek(start)
        data = self._file.read(note + images)
        noted: Any = parse_json(data[:note], _Note, str(self._path))  # type: ignore[arg-type, var-annotated]
        state, detail, meta, *sizes = noted
        others: list[int] = sizes[0] if sizes else []
        ends = list(accumulate(others, initial=note + images - sum(others)))
        further = tuple(data[begin:end] for begin, end in pairwise(ends))
        return Outcome(FORMER_STATES.get(state, state), detail, data[note : ends[0]], meta, further)

    def close(self) -> None:
        """Keep it for the next run."""
        self._file.close()

    def remove(self) -> None:
        """Delete it: its shard is finished."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def _read(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        while self._end + _FRAME.size <= size:
            self._file.seek(self._end)
            frame = self._file.read(_FRAME.size)
            row, note, jpeg, crc = _FRAME.unpack(frame)
            after = self._end + _FRAME.size + note + jpeg
            if after > size or note > _MAX_NOTE or jpeg > _MAX_JPEG:
                break
            if zlib.crc32(self._file.read(note + jpeg), zlib.crc32(frame[: _HEAD.size])) != crc:
                break
            self._places.setdefault(row, (self._end + _FRAME.size, note, jpeg))
            self._end = after
        self._file.truncate(self._end)
