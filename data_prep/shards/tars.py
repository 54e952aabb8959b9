"""The tars of a folder that is indexed: a local one, or one at a URL."""

import os
from pathlib import Path

from bridgetower_train.data.cache import fetch
from bridgetower_train.files import recreate
from data_prep.shards.output import Output

_FETCHED_AT_ONCE = 4


class Tars:
    """The tars of a folder."""

    at_once = os.cpu_count() or 1
    """How many to read at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(path.name for path in folder.glob("*.tar") if not path.name.startswith("."))

    def path(self, name: str) -> Path:
        """Of a tar, on this machine."""
        return self.folder / name

    def done(self, name: str) -> None:
        """It has been read."""


class RemoteTars(Tars):
    """Those of a remote folder, each fetched once into `folder`, and removed when it has been read."""

    at_once = _FETCHED_AT_ONCE

    def __init__(self, output: Output, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(name for name in output.sizes() if name.endswith(".tar"))
        self._url = output.url

    def path(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            with recreate(path) as file:
                fetch(f"{self._url}/{name}", file)
        return path

    def done(self, name: str) -> None:
        (self.folder / name).unlink()
