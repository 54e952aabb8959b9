"""Text of others, made safe to show: on a terminal, in a log, in stored command lines and configurations."""

import errno
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

HIDDEN = "***"
"""Stands where a secret was."""

_CONTROLS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""C0, C1, bidirectional controls, line separators, halves of surrogate pairs."""
_UNPRINTABLE = re.compile(f"[{_CONTROLS}]")
_STRANGE = re.compile(f"(\n|\t|\\A\r|\r\\Z|\x1b\\[[0-9;]*m)|[{_CONTROLS}]")  # the group is let through
_MOVES = re.compile("(?:[\r\n]|\x1b\\[[0-9]*[AK]m?)+")

_URL = re.compile(r":/{1,2}\S+")  # one slash: a URL that became a path
_USER = re.compile(r"(:/{1,2})[^/\s]*@")
_PARAMETER = re.compile(r"([?&#][^=&?#\s]{1,64}=)[^&#\s'\"<>\\]*")
_SECRET = re.compile(r"sig|token|secret|pass|pwd|key|auth|credential|policy", re.IGNORECASE)


def printable(text: object) -> str:
    """`text` in one line, with control characters and bidirectional marks as escapes such as `\\x1b`."""
    return _UNPRINTABLE.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _escape_strange(found: re.Match[str]) -> str:
    return found[1] or _escape(found)


def plural(count: int, noun: str) -> str:
    """`1 rank`, `2 ranks`, `1,000 micro-batches`."""
    ending = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def shortened(text: str, limit: int = 100) -> str:
    """`text`, cut after `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def listed(reasons: Mapping[str, str], count: int | None = None) -> str:
    """How many were left out, `count` if these are not all, and five with their reasons; "none" where none was."""
    shown = ", ".join(f"{key} ({reason})" for key, reason in sorted(reasons.items())[:5])
    count = len(reasons) if count is None else count
    return f"{count:,}: {shown}{', ...' if count > 5 else ''}" if count else "none"


def without_secrets(text: str) -> str:
    """`text` without the user names and passwords, and without the values of signing parameters, of all URLs in it."""
    return _URL.sub(_public_url, text)


def _public_url(url: re.Match[str]) -> str:
    return _PARAMETER.sub(_public_parameter, _USER.sub(rf"\1{HIDDEN}@", url[0]))


def _public_parameter(parameter: re.Match[str]) -> str:
    return parameter[1] + HIDDEN if _SECRET.search(parameter[1]) else parameter[0]


def public(tree: Any) -> Any:
    """The same tree of dicts and lists, each text in it without secrets: for what is stored of a configuration."""
    if isinstance(tree, dict):
        return {key: public(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [public(value) for value in tree]
    return without_secrets(tree) if isinstance(tree, str) else tree


def print_line(text: object, file: TextIO | None = None) -> None:
    """Print `text`, which may contain what others wrote, as one line without secrets."""
    print(printable(without_secrets(str(text))), file=file, flush=True)


class Guarded:
    """A text stream to which no secrets are written, and no control sequences but colours and those of progress bars.

    Two barriers, since neither suffices. Only the code that prints a line knows which line breaks in it are its own, so it
    uses `print_line` for what others wrote. Only the stream sees all that is printed: tracebacks, warnings and logs of
    libraries too. Progress bars (tqdm, W&B) begin or end with a carriage return, and move the cursor in writes of their own.
    """

    fault: OSError | None = None
    """Why some of it could not be written, where somebody would have read it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text` and return its length."""
        shown = text if _MOVES.fullmatch(text) else _STRANGE.sub(_escape_strange, without_secrets(text))
        with self._whatever_happens():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._whatever_happens():
            self._stream.flush()

    @contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        """What a process does must not end because its reader has (`| head`, ssh), or since the disk of its log is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # of a pipe, of a terminal
                self.fault = error

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Let everything that this process prints pass `Guarded`; what a terminal's encoding lacks is shown as an escape.

    A stream that is closed leads nowhere, not into a file of ours.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = Guarded(sys.stdout or os.fdopen(1, "w", closefd=False))  # type: ignore[assignment]
    sys.stderr = Guarded(sys.stderr or os.fdopen(2, "w", closefd=False))  # type: ignore[assignment]


def output_fault() -> OSError | None:
    """Why standard output lacks something, if it does."""
    sys.stdout.flush()
    return sys.stdout.fault if isinstance(sys.stdout, Guarded) else None
