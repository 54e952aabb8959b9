"""Captions without control characters."""

from collections.abc import Iterable
from typing import Any

from bridgetower_train.data.shards import clean_captions

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")  # Unicode's Cc, Zl and Zp


def tidy(captions: Iterable[Any]) -> list[str]:
    """`clean_captions`, after each run of control characters (NUL, tabs, line breaks, ...) has become a space."""
    return clean_captions(_plain(caption) if isinstance(caption, str) else caption for caption in captions)


def _plain(caption: str) -> str:
    if caption.isprintable():
        return caption
    spaced = caption.translate(_CONTROLS)
    return caption if spaced == caption else " ".join(spaced.split())
