"""The folder of a corpus being written: local, or at an fsspec URL. A file appears in it complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import url_to_fs

from bridgetower_train.data.roots import is_remote, plain_root
from bridgetower_train.display import without_secrets
from bridgetower_train.errors import DataError
from bridgetower_train.files import atomic_write, own_folder, replacing, sync
from bridgetower_train.foreign import MAX_JSON, open_regular, read_rest


class Output:
    """`root/corpus`. It may be pickled. DataError where a remote one cannot be read or written."""

    def __init__(self, root: str, corpus: str) -> None:
        self.url = f"{plain_root(root)}/{corpus}"
        self.local = None if is_remote(self.url) else Path(self.url)
        """None where it is remote."""

    def __str__(self) -> str:
        """To show; without secrets."""
        return without_secrets(self.url)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Name -> size, bytes, of its files or of those in a folder of it; empty where there are none."""
        if self.local is not None:
            try:
                with os.scandir(self.local / folder) as entries:
                    return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            except FileNotFoundError:
                return {}
        fs, path = self._remote(folder)
        try:
            listed = fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # every protocol of fsspec has errors of its own
            raise DataError(f"out={self}: cannot be listed: {error!r}; check the URL and its credentials") from error
        return {
            entry["name"].rstrip("/").rpartition("/")[2]: entry["size"] for entry in listed if entry["type"] == "file"
        }

    def size(self, name: str) -> int | None:
        """Bytes of a file of it; None where there is none."""
        try:
            if self.local is not None:
                return (self.local / name).stat().st_size
            fs, path = self._remote(name)
            return int(fs.size(path))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """A file of it, for reading. FileNotFoundError where there is none, FileError where it is no regular file."""
        if self.local is not None:
            return open_regular(self.local / name)
        fs, path = self._remote(name)
        file: BinaryIO = fs.open(path, "rb")
        return file

    def read(self, name: str) -> bytes | None:
        """The contents of a small file of it; None where there is none. FileError where it is large."""
        try:
            with self.open(name) as file:
                return read_rest(file, MAX_JSON, f"{self}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Write a small file."""
        if self.local is not None:
            atomic_write(self.local / name, text)
            return
        with self._writing(name) as (fs, path):
            fs.pipe_file(path, text.encode("utf-8", "replace"))

    def take(self, source: Path, name: str) -> None:
        """Move a complete local file to its place."""
        if self.local is not None:
            if "/" in name:
                own_folder((self.local / name).parent)
            _move(source, self.local / name)
            return
        with self._writing(name) as (fs, path):
            fs.put_file(str(source), path)  # object stores show an upload when it is complete
        source.unlink()

    @contextmanager
    def _writing(self, name: str) -> Iterator[tuple[Any, str]]:
        fs, path = self._remote(name)
        try:
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            yield fs, path
        except Exception as error:  # every protocol of fsspec has errors of its own
            raise DataError(
                f"out={self}: {name} cannot be written: {error!r}; what was written is intact: run the same command to resume"
            ) from error

    def _remote(self, name: str) -> tuple[Any, str]:
        """fsspec's file system, opened for each use since it must not cross a fork, and the path in it."""
        found: tuple[Any, str] = url_to_fs(f"{self.url}/{name}".rstrip("/"), use_listings_cache=False)
        return found


def _move(source: Path, target: Path) -> None:
    if source.stat().st_dev == target.parent.stat().st_dev:
        sync(source)
        source.replace(target)
        sync(target.parent)
    else:
        with source.open("rb") as file, replacing(target) as copy:
            shutil.copyfileobj(file, copy)
        source.unlink()
