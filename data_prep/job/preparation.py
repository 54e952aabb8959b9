"""`preparation.json`: from what a corpus is prepared, when and where: all that differs between two equal runs."""

import hashlib
import json
import shlex
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from bridgetower_train.data.manifest import Manifest
from bridgetower_train.display import without_secrets
from bridgetower_train.errors import DataError, FileError
from bridgetower_train.foreign import parse_json
from bridgetower_train.versions import versions
from data_prep.shards.output import Output

NAME = "preparation.json"
_FORMAT = 1  # increment it when the same source and settings give other shards


@dataclass(frozen=True)
class _Begun:
    """What an earlier run has noted."""

    settings: dict[str, Any]
    source: dict[str, str]
    started: str | None


class Preparation:
    """The settings and the source that a corpus depends on."""

    def __init__(self, settings: dict[str, Any], source: dict[str, str]) -> None:
        """`source`: as of `Table.identity`."""
        self.settings = {"format": _FORMAT, **settings}
        self.source = source

    def digest(self, output: Output) -> str:
        """A short name of this job."""
        return hashlib.sha256(json.dumps([str(output), self.settings, self.source]).encode()).hexdigest()[:12]

    def whole(self, output: Output) -> Manifest | None:
        """The manifest of the corpus; None where it is not finished. DataError where the folder belongs to another one."""
        self._check(output)
        manifest = output.read("manifest.json")
        return None if manifest is None else Manifest.from_json(manifest, f"{output}/manifest.json")

    def begin(self, output: Output) -> None:
        """Claim the folder, unless an earlier run has."""
        if _read(output) is None:
            self._write(output, {"started": _now(), "finished": None})

    def end(self, output: Output) -> None:
        """Record when the corpus was finished."""
        before = _read(output)
        self._write(output, {"started": before.started if before else None, "finished": _now()})

    def _check(self, output: Output) -> None:
        before = _read(output)
        if before is None:
            foreign = [name for name in output.sizes() if name.endswith(".tar") or name == "manifest.json"]
            if foreign:
                raise DataError(
                    f"out={output}: contains {min(foreign)}, which another command or version wrote; remove the folder, "
                    "or choose another `out` or `name`"
                )
            return
        changes = _changes("", before.settings, self.settings) + _changes("source ", before.source, self.source)
        if changes:
            raise DataError(
                f"out={output}: was begun with another source or other settings: {'; '.join(changes)}; restore "
                "those, remove the folder, or choose another `out` or `name`"
            )

    def _write(self, output: Output, times: dict[str, str | None]) -> None:
        content = {
            "settings": self.settings,
            "source": self.source,
            **times,
            "host": socket.gethostname(),
            "command": shlex.join(map(without_secrets, sys.argv)),
            "versions": versions(),
        }
        output.write(NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(output: Output) -> _Begun | None:
    """None where no run has begun. DataError where something else has the file's name."""
    text = output.read(NAME)
    try:
        return None if text is None else parse_json(text, _Begun, NAME)
    except FileError as error:
        raise DataError(f"out={output}: {error}, or remove the folder and start over") from None


def _changes(kind: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{kind}{key} was {before.get(key, 'missing')} and is {now.get(key, 'missing')}" for key in keys]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
