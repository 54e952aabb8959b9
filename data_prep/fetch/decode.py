"""From a body to the image for a shard, in a decoding process."""

import hashlib
import re
import zlib
from typing import Any

from bridgetower_train.data.shards import BadRecordError
from data_prep.fetch.config import FetchConfig
from data_prep.fetch.states import BAD_ENCODING, HASH_MISMATCH, TOO_LARGE, TOO_SMALL, NotAnImageError
from data_prep.source import image
from data_prep.source.rows import OK, Outcome

_ENCODINGS = ("gzip", "x-gzip", "deflate")
_OTHER_ENCODINGS = ("br", "compress", "dcb", "dcz", "x-compress", "zstd")
_COMPRESSED = (b"\x1f\x8b", b"\x78")  # gzip, zlib


def prepare(content: bytes, encoding: str, digest: str, size: int, config: FetchConfig) -> Outcome:
    """The image for the shard, and sha256, width and height of the original; or a state that says what is wrong.

    `encoding`: the body's Content-Encoding. `digest`: as in `Row`. `size`: shorter edge in the shard, pixels.
    """
    meta: dict[str, Any] = {}
    try:
        original = unpack(content, encoding, config.max_bytes)
        jpeg, width, height = image.prepare(original, size)
        meta = {"sha256": hashlib.sha256(original).hexdigest(), "width": width, "height": height}
        _compare(original, digest)
        if min(width, height) < config.min_edge:
            raise NotAnImageError(TOO_SMALL, f"{width} x {height} pixels")
        return Outcome(OK, "", jpeg, meta)
    except NotAnImageError as error:
        return Outcome(error.state, error.detail, meta=meta)
    except BadRecordError as error:
        start = content[:60].decode("ascii", "backslashreplace")  # an error page often starts with the error
        return Outcome(error.reason, start or "empty", meta=meta)


def unpack(content: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding, which was not requested. What is none (`none`, `image/jpeg`, ...) changes nothing, as in browsers.

    NotAnImageError where it cannot be undone, or gives more than `limit` bytes.
    """
    encodings = [name for name in re.split(r"\s*,\s*", encoding) if name in (*_ENCODINGS, *_OTHER_ENCODINGS)]
    if not encodings:
        return content
    if len(encodings) > 1 or encodings[0] in _OTHER_ENCODINGS:
        raise NotAnImageError(BAD_ENCODING, encoding[:50])
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib
    try:
        whole = inflater.decompress(content, limit + 1)
    except zlib.error as error:
        if not content.startswith(_COMPRESSED):
            return content  # the header is wrong
        raise NotAnImageError(BAD_ENCODING, str(error)) from None
    if len(whole) > limit:
        raise NotAnImageError(TOO_LARGE, f"over {limit:,} bytes when unpacked")
    return whole


def _compare(original: bytes, digest: str) -> None:
    name, _, published = digest.partition(":")
    if published and hashlib.new(name, original).hexdigest() != published:
        raise NotAnImageError(HASH_MISMATCH, f"published {digest}")
