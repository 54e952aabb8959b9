"""Captions without control characters."""

from collections.abc import Iterable, Mapping
from typing import Any

from bridgetower_train.data.shards import clean_captions, is_kind
from bridgetower_train.errors import ConfigError

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")  # Unicode's Cc, Zl and Zp


def tidy(captions: Iterable[Any], kinds: Iterable[Any] = ()) -> dict[str, str]:
    """`clean_captions`, after each run of control characters (NUL, tabs, line breaks, ...) has become a space."""
    return clean_captions(map(tidy_text, captions), kinds)


def tidy_text(text: Any) -> Any:
    """A text after each run of control characters has become a space; anything else as it is."""
    return _plain(text) if isinstance(text, str) else text


def check_kinds(kinds: Mapping[str, str]) -> None:
    """ConfigError for a name that no kind of captions can have; `kinds` is the key of that name."""
    for kind in kinds:
        if not is_kind(kind):
            raise ConfigError(f"kinds: {kind!r} cannot name a kind; write 1 to 40 letters, digits, '_', '-' and '.'")


def _plain(caption: str) -> str:
    if caption.isprintable():
        return caption
    spaced = caption.translate(_CONTROLS)
    return caption if spaced == caption else " ".join(spaced.split())
