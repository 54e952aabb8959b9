"""A walk over the headers of a tar file that survives damage and reports what it could not read.

Python's `tarfile`, and so stock webdataset, takes a damaged header for the end of the archive and silently drops the
rest of the shard. This walk looks for the next valid header instead and reports the gap.
"""

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

BLOCK = 512
"""Tar headers and contents start at multiples of this, bytes."""

_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_SPARSE = b"S"  # GNU's older form
_EXTENDED = (b"L", b"x")  # GNU long name, pax: they describe the next member
_WITHOUT_CONTENTS = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders
_ADLER_PRIME = 65521
_MAX_NAME_BYTES = 1 << 16
_END_MARK = 2 * BLOCK
_MAX_END_BYTES = 1 << 16  # after the end mark tar pads its last record, of 10 KiB by default
_MAX_RECORD_BYTES = 8 << 20  # where the size of the file is a multiple of it
_MAGIC, _MAGIC_AT = b"ustar", 257
_MAX_DIGITS = 20  # of a number in a pax header
_FIRST_SCAN, _SCAN_BYTES = 1 << 12, 1 << 20


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int
    """Where its contents start in the tar, bytes; its header is the block before."""
    size: int
    """Bytes of contents."""
    sparse: bool = False
    """Its holes are not in the tar, so that its contents are not what lies at `offset`."""

    def is_before(self, other: "Member") -> bool:
        """Whether nothing but the header of the other lies between their contents."""
        return other.offset == self.offset + -(-self.size // BLOCK) * BLOCK + BLOCK


class Gap(NamedTuple):
    """A stretch of a tar that cannot be read."""

    offset: int
    size: int
    reason: str


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


class _Stated(NamedTuple):
    """What a GNU or pax header states about the next member."""

    name: str = ""
    size: int | None = None
    sparse: bool = False


_NOTHING = _Stated()


def walk_tar(file: BinaryIO) -> Iterator[Member | Gap]:
    """The members and the gaps of an open tar, in order; contents are not read. Supports ustar, GNU and pax names."""
    fd = file.fileno()
    end = os.fstat(fd).st_size
    position, zeros_from = 0, None
    stated = _NOTHING
    while position < end:
        block = os.pread(fd, BLOCK, position)
        if _ZEROS.startswith(block):
            zeros_from = position if zeros_from is None else zeros_from
            position += BLOCK
            continue
        header = parse_header(block)
        length = 0 if header is None else header.size if stated.size is None else stated.size
        contents = position + BLOCK + (_sparse_map(fd, position) if header and header.kind == _SPARSE else 0)
        start = position if zeros_from is None else zeros_from
        if header is None or contents + length > end:
            position = _next_header(fd, position + 1, end)
            yield Gap(start, position - start, _reason(header, start, position == end))
            if position == end:
                return
            zeros_from, stated = None, _NOTHING
            continue
        if zeros_from is not None:
            yield Gap(start, position - start, "end mark in the middle of the tar")
            zeros_from = None
        if header.kind in _EXTENDED and length <= _MAX_NAME_BYTES:
            try:
                stated = _extended(header.kind, os.pread(fd, length, contents))
            except ValueError:
                yield Gap(position, contents - position, "broken tar header")
        else:
            if header.kind in _REGULAR or header.kind == _SPARSE:
                yield Member(stated.name or header.name, contents, length, stated.sparse or header.kind == _SPARSE)
            stated = _NOTHING
        position = contents + (0 if header.kind in _WITHOUT_CONTENTS else -(-length // BLOCK) * BLOCK)
    if zeros_from is None:
        yield Gap(end, 0, "tar without an end mark, perhaps cut short" if end else "zero-byte shard")
    elif end - zeros_from > max(_MAX_END_BYTES, _END_MARK + math.gcd(end, _MAX_RECORD_BYTES)):
        yield Gap(zeros_from, end - zeros_from, "tar that ends in zeros, perhaps not fetched whole")


def member_name(fd: int, contents: int) -> str | None:
    """The name of the member whose contents begin there, in whole also where that takes an extended header; None if broken."""
    start = max(0, contents - _MAX_NAME_BYTES - 3 * BLOCK)
    data = os.pread(fd, contents - start, start)
    header = parse_header(data[-BLOCK:]) if len(data) == contents - start else None
    if header is None:
        return None
    end = len(data) - BLOCK
    found = data.rfind(_MAGIC, 0, end)
    while found >= 0:
        at = found - _MAGIC_AT
        before = parse_header(data[at : at + BLOCK]) if at >= 0 and (end - at) % BLOCK == 0 else None
        if before is not None:
            payload = data[at + BLOCK : at + BLOCK + before.size]
            if before.kind in _EXTENDED and 0 <= end - at - BLOCK - before.size < BLOCK:
                with suppress(ValueError):
                    return _extended(before.kind, payload).name or header.name
            break
        found = data.rfind(_MAGIC, 0, found)
    return header.name


def member_key(name: str) -> tuple[str, str]:
    """(key, lower-case suffix) of a tar member: as in webdataset, its base name is split at the first dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _reason(header: _Header | None, position: int, to_the_end: bool) -> str:
    if header is None:
        return "not a tar" if position == 0 and to_the_end else "broken tar header"
    return "tar cut short" if to_the_end else "broken tar header"


def parse_header(block: bytes) -> _Header | None:
    """Name, size and kind from a header block; None if its checksum, a number or the name in it is invalid."""
    if len(block) < BLOCK:
        return None
    stated = block[148:156]
    try:
        checksum = int(stated.rstrip(b"\0 "), 8)
        size = int.from_bytes(block[125:136], "big") if block[124] == 0x80 else int(block[124:136].rstrip(b"\0 "), 8)
    except ValueError:
        return None
    # The checksum is the sum of all bytes, with its own field as spaces. Adler-32's lower half is a byte sum, in C.
    expected = (checksum - 8 * 32 + sum(stated) + 1) % _ADLER_PRIME
    if zlib.adler32(block) & 0xFFFF != expected or size < 0:
        return None
    raw = block[:100].partition(b"\0")[0]
    if not raw:
        return None
    if block[257:263] == b"ustar\0" and block[345]:
        raw = block[345:500].partition(b"\0")[0] + b"/" + raw
    return _Header(raw.decode("utf-8", "backslashreplace"), size, block[156:157])


def _extended(kind: bytes, payload: bytes) -> _Stated:
    """What a GNU long name or a pax header states. ValueError if its records or its numbers are not what pax defines."""
    if kind == b"L":
        return _Stated(payload.rstrip(b"\0").decode("utf-8", "backslashreplace"))
    payload = payload.rstrip(b"\0")  # some writers pad it
    name, size, sparse, start = "", None, False, 0
    while start < len(payload):
        space = payload.find(b" ", start, start + _MAX_DIGITS + 1)
        end = start + _number(payload[start:space] if space >= 0 else b"")
        if not space < end <= len(payload):
            raise ValueError("a record that ends before it begins, or after the header")
        key, _, value = payload[space + 1 : end - 1].partition(b"=")
        if (key == b"path" and not name) or key == b"GNU.sparse.name":
            name = value.decode("utf-8", "backslashreplace")
        elif key == b"size":
            size = _number(value)
        sparse |= key.startswith(b"GNU.sparse.")
        start = end
    return _Stated(name, size, sparse)


def _sparse_map(fd: int, header: int) -> int:
    """Bytes of the blocks that continue the map in a header of GNU's older sparse form."""
    size, more = 0, os.pread(fd, 1, header + 482)
    while more == b"\1":
        size += BLOCK
        more = os.pread(fd, 1, header + size + 504)
    return size


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ValueError("not a number of at most 20 digits")
    return int(digits)


def _next_header(fd: int, start: int, end: int) -> int:
    """Where the first valid header at or after `start` begins, at any alignment; `end` where there is none."""
    scanned = _FIRST_SCAN  # grows, so that a header close by does not cost a large read
    while start < end:
        chunk = os.pread(fd, scanned + BLOCK, start)
        found = chunk.find(_MAGIC, _MAGIC_AT)
        while 0 <= found < scanned + _MAGIC_AT:
            at = found - _MAGIC_AT
            if parse_header(chunk[at : at + BLOCK]) is not None:
                return start + at
            found = chunk.find(_MAGIC, found + 1)
        start += scanned
        scanned = min(2 * scanned, _SCAN_BYTES)
    return end
