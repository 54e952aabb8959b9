"""A walk over the headers of a tar file that survives damage and reports what it could not read.

Python's `tarfile`, and so stock webdataset, takes a damaged header for the end of the archive and silently drops the
rest of the shard. This walk looks for the next valid header instead and reports the gap.
"""

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
"""Tar headers and contents start at multiples of this, bytes."""

_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_EXTENDED = (b"L", b"x")  # GNU long name, pax: they describe the next member
_WITHOUT_CONTENTS = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders
_ADLER_PRIME = 65521
_MAX_NAME_BYTES = 1 << 16
_MAX_END_BYTES = 1 << 16  # tar writes 1 KiB of zeros and pads its last record, of 10 KiB by default
_MAX_DIGITS = 20  # of a number in a pax header
_FIRST_SCAN, _SCAN_BYTES = 1 << 12, 1 << 20


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int
    """Where its contents start in the tar, bytes; its header is the block before."""
    size: int
    """Bytes of contents."""


class Gap(NamedTuple):
    """A stretch of a tar that cannot be read."""

    offset: int
    size: int
    reason: str


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


def walk_tar(file: BinaryIO) -> Iterator[Member | Gap]:
    """The members and the gaps of an open tar, in order; contents are not read. Supports ustar, GNU and pax names."""
    fd = file.fileno()
    end = os.fstat(fd).st_size
    position, zeros_from = 0, None
    name, size = "", None  # what a GNU or pax header states about the next member
    while position < end:
        block = os.pread(fd, BLOCK, position)
        if _ZEROS.startswith(block):
            zeros_from = position if zeros_from is None else zeros_from
            position += BLOCK
            continue
        header = parse_header(block)
        length = 0 if header is None else header.size if size is None else size
        contents = position + BLOCK
        start = position if zeros_from is None else zeros_from
        if header is None or contents + length > end:
            position = _next_header(fd, position + 1, end)
            yield Gap(start, position - start, _reason(header, start, position == end))
            if position == end:
                return
            zeros_from, name, size = None, "", None
            continue
        if zeros_from is not None:
            yield Gap(start, position - start, "end mark in the middle of the tar")
            zeros_from = None
        if header.kind in _EXTENDED and length <= _MAX_NAME_BYTES:
            try:
                name, size = _extended(header.kind, os.pread(fd, length, contents))
            except ValueError:
                yield Gap(position, contents - position, "broken tar header")
        elif header.kind in _REGULAR:
            yield Member(name or header.name, contents, length)
            name, size = "", None
        position = contents + (0 if header.kind in _WITHOUT_CONTENTS else -(-length // BLOCK) * BLOCK)
    if zeros_from is None:
        yield Gap(end, 0, "tar without an end mark, perhaps cut short" if end else "zero-byte shard")
    elif end - zeros_from > _MAX_END_BYTES:
        yield Gap(zeros_from, end - zeros_from, "tar that ends in zeros, perhaps not fetched whole")


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


def _extended(kind: bytes, payload: bytes) -> tuple[str, int | None]:
    """(name, size) that a GNU long name or a pax header gives the next member; "" and None if it gives none.

    ValueError if its records or its numbers are not what pax defines.
    """
    if kind == b"L":
        return payload.rstrip(b"\0").decode("utf-8", "backslashreplace"), None
    payload = payload.rstrip(b"\0")  # some writers pad it
    name, size, start = "", None, 0
    while start < len(payload):
        space = payload.find(b" ", start, start + _MAX_DIGITS + 1)
        end = start + _number(payload[start:space] if space >= 0 else b"")
        if not space < end <= len(payload):
            raise ValueError("a record that ends before it begins, or after the header")
        key, _, value = payload[space + 1 : end - 1].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "backslashreplace")
        elif key == b"size":
            size = _number(value)
        start = end
    return name, size


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ValueError("not a number of at most 20 digits")
    return int(digits)


def _next_header(fd: int, start: int, end: int) -> int:
    """Where the first valid header at or after `start` begins, at any alignment; `end` where there is none."""
    scanned = _FIRST_SCAN  # grows, so that a header close by does not cost a large read
    while start < end:
        chunk = os.pread(fd, scanned + BLOCK, start)
        found = chunk.find(b"ustar", 257)
        while 0 <= found < scanned + 257:
            if parse_header(chunk[found - 257 : found - 257 + BLOCK]) is not None:
                return start + found - 257
            found = chunk.find(b"ustar", found + 1)
        start += scanned
        scanned = min(2 * scanned, _SCAN_BYTES)
    return end
