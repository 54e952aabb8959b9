"""Errors that a user can fix. The command line prints them as one message, without a traceback."""

import difflib
import errno
from collections.abc import Iterable

from bridgetower_train.display import without_secrets


class UserError(Exception):
    """Something outside the program is wrong: the message says what, and what to do. Exit code 1.

    Secrets of URLs are taken out of the message, wherever it is shown or stored.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


class ConfigError(UserError, ValueError):
    """A key of the configuration is unknown or has an impossible value: the message names it. Exit code 2."""


class DataError(UserError):
    """Shards, index or manifest cannot be used: the message names the file. Exit code 1."""


class FileError(UserError, ValueError):
    """A file that others may have written is not what it should be: the message names it. Exit code 1."""


class CheckpointError(UserError):
    """No usable checkpoint, or one that does not belong to this run. Exit code 1."""


_REMEDIES = {
    **dict.fromkeys((errno.EIO, errno.ESTALE), "its disk or server failed; run the same command again once it is well"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, or choose another folder"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "change its permissions, or choose another path"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


def remedy(error: OSError) -> str | None:
    """What a user can do about an error of the system; None if it is about no file, and no fault of a disk."""
    return _REMEDIES.get(
        error.errno or 0, None if error.filename is None else "give a path that fits, or remove what is there"
    )


_ALIKE = (
    "bf16 fp16 half float16 bfloat16 bf16-mixed 16-mixed", "fp32 float32 float full", "cuda gpu nvidia", "hpu gaudi habana",
    "native ddp", "zero2 deepspeed zero", "zero3 fsdp", "adamw adam", "true yes on", "false no off",
)  # fmt: skip
_SAME = {other: ours for line in _ALIKE for ours, *others in [line.split()] for other in others}
"""Value that other programs have -> what is closest to it here."""


def same(value: str) -> str:
    """What is called `value` elsewhere."""
    return _SAME.get(value.lower(), value)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` if something in `allowed` resembles `name`, otherwise an empty string."""
    choices = list(allowed)
    match = [same(name)] if same(name) in choices else difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
