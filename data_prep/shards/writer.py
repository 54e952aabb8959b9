"""Writes a corpus: shards, index and manifest, the same bytes for the same records."""

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from bridgetower_train.data.cache import sha256_file
from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    IMAGE_TOO_LARGE,
    INDEX_DTYPE,
    MAX_CAPTION_BYTES,
    MAX_CAPTIONS,
    MAX_IMAGE_BYTES,
    clean_captions,
)
from bridgetower_train.data.tar import BLOCK
from bridgetower_train.errors import DataError
from bridgetower_train.files import atomic_write
from data_prep.source.image import prepare_jpeg

__all__ = ["ShardWriter", "prepare_jpeg", "write_index"]

NO_CAPTION = "no caption"
DUPLICATE_KEY = "duplicate key"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
_UNFINISHED = "unfinished"  # marks a folder that a writer has begun, and whose shards it may therefore write anew

Rows = npt.NDArray[np.void]


class ShardWriter:
    """Writes `out/corpus/NNNNNN.tar`, and on leaving the `with` block `index.npy` and, last, `manifest.json`.

    Where the block raises, neither of them is written; the next writer for that folder starts over. DataError where the
    folder already holds a corpus, or shards of another origin.
    """

    def __init__(self, out: Path, corpus: str, image_size: int | None, records_per_shard: int = 1000) -> None:
        """`image_size`: shorter edge of every image, pixels; None where they differ."""
        self.folder = Path(out) / corpus
        self.corpus = corpus
        self.image_size = image_size
        self.records_per_shard = records_per_shard
        self.extra: dict[str, Any] = {}
        """Notes for the manifest."""
        self._dropped: Counter[str] = Counter()
        self._shards: list[ShardInfo] = []
        self._rows: list[Rows] = []
        self._shard: Shard | None = None
        self._claim_folder()

    def add(self, key: str, jpeg: bytes, captions: list[str], meta: dict[str, Any]) -> bool:
        """Append a record; False where it was dropped, which is counted under its reason. See `Shard.add`."""
        if self._shard is None:
            name = f"{len(self._shards):06d}.tar"
            self._shard = Shard(partial(self.folder / name), name, self.corpus, self.image_size)
        reason = self._shard.add(key, jpeg, captions, meta)
        if reason:
            self.drop(reason)
        if len(self._shard) == self.records_per_shard:
            self._finish_shard()
        return not reason

    def drop(self, reason: str) -> None:
        """Count a row of the source that was left out."""
        self._dropped[reason] += 1

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            if self._shard is not None:
                self._shard.discard()
            return
        if self._shard is not None:
            self._finish_shard() if len(self._shard) else self._shard.discard()
        dropped = dict(self._dropped)
        if not self._shards:
            raise DataError(f"{self.folder}: nothing to write; dropped: {dropped or 'none'}")
        rows = np.concatenate(self._rows)
        write_index(self.folder, rows, self.corpus, self.image_size, "json", self._shards, dropped, self.extra)

    def _claim_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tars = sorted(self.folder.glob("*.tar"))
        marker = self.folder / _UNFINISHED
        if (self.folder / "manifest.json").exists():
            raise DataError(f"{self.folder}: already holds a corpus; remove the folder, or choose another `out`")
        if tars and not marker.exists():
            raise DataError(
                f"{self.folder}: holds {tars[0].name} without a manifest; choose another `out`, or index it: "
                f"bridgetower prep index root={self.folder}"
            )
        marker.touch()
        for tar in self.folder.glob("[0-9]" * 6 + ".tar"):
            tar.unlink()

    def _finish_shard(self) -> None:
        assert self._shard is not None
        info, rows = self._shard.finish()
        commit(self.folder / info.name)
        rows["shard"] = len(self._shards)
        self._shards.append(info)
        self._rows.append(rows)
        self._shard = None


class Shard:
    """A tar being written, at a temporary path."""

    def __init__(self, path: Path, name: str, corpus: str, image_size: int | None) -> None:
        """`name`: what it will be called. `image_size`: shorter edge of every image, pixels; None where they differ."""
        self._path = path
        self._name = name
        self._corpus = corpus
        self._image_size = image_size
        self._rows: list[tuple[int, ...]] = []
        self._keys: set[str] = set()
        self._file = open(path, "wb")  # noqa: SIM115
        self._digest = hashlib.sha256()
        self._size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, jpeg: bytes, captions: list[str], meta: dict[str, Any]) -> str:
        """Append a record; the reason where it is dropped instead, else "".

        `meta` joins the captions in the record's json, with `image_id` (the key) and `source` (the corpus) unless it
        has its own. DataError for a key that WebDataset would not read back.
        """
        if not _KEY.fullmatch(key):
            raise DataError(f"{self._path.parent}: {key!r}: a key is 1 to 90 letters, digits, '_' and '-'")
        if self._image_size is not None:
            height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
            assert min(height, width) == self._image_size, f"{key}: {width} x {height} pixels"
        texts = clean_captions(captions)
        record = {"captions": texts, "image_id": key, "source": self._corpus, **meta}
        member = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
        reason = self._objection(key, jpeg, texts, member)
        if not reason:
            jpeg_at = self._append(f"{key}.jpg", jpeg)
            json_at = self._append(f"{key}.json", member)
            crc = zlib.crc32(member, zlib.crc32(jpeg))
            self._rows.append((0, jpeg_at, len(jpeg), json_at, len(member), len(texts), crc))
            self._keys.add(key)
        return reason

    def finish(self) -> tuple[ShardInfo, Rows]:
        """End the tar, which still has its temporary name, and describe it; the rows of its index carry shard 0."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._size % tarfile.RECORDSIZE))
        self._file.close()
        rows = np.array(self._rows, dtype=INDEX_DTYPE)
        captions = int(rows["captions"].sum(dtype=np.int64))
        return ShardInfo(self._name, self._size, len(rows), captions, self._digest.hexdigest()), rows

    def discard(self) -> None:
        """Remove it."""
        self._file.close()
        self._path.unlink()

    def _objection(self, key: str, jpeg: bytes, texts: list[str], member: bytes) -> str:
        if not texts:
            return NO_CAPTION
        if len(texts) > MAX_CAPTIONS or len(member) > MAX_CAPTION_BYTES:
            return CAPTIONS_TOO_LARGE
        if len(jpeg) > MAX_IMAGE_BYTES:
            return IMAGE_TOO_LARGE
        return DUPLICATE_KEY if key in self._keys else ""

    def _append(self, name: str, data: bytes) -> int:
        """Append a file; where its contents start."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        start = self._size
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        return start

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


def write_index(
    folder: Path,
    rows: Rows,
    corpus: str,
    image_size: int | None,
    caption_member: str,
    shards: list[ShardInfo],
    dropped: dict[str, int],
    extra: dict[str, Any],
) -> Manifest:
    """Write `index.npy` (INDEX_DTYPE) and then `manifest.json` beside the shards, in place of those that are there."""
    (folder / "manifest.json").unlink(missing_ok=True)
    index = folder / "index.npy"
    with open(partial(index), "wb") as file:
        np.save(file, rows)
    commit(index)
    manifest = Manifest(
        corpus=corpus,
        image_size=image_size,
        caption_member=caption_member,
        shards=shards,
        images=len(rows),
        captions=int(rows["captions"].sum(dtype=np.int64)),
        index_sha256=sha256_file(index),
        dropped=dropped,
        extra=extra,
    )
    atomic_write(folder / "manifest.json", manifest.to_json())
    (folder / _UNFINISHED).unlink(missing_ok=True)
    return manifest


def partial(path: Path) -> Path:
    """Where a file is written that is to be called `path` once it is whole."""
    return path.with_name(path.name + ".part")


def commit(path: Path) -> None:
    """Give the file that was written as `partial(path)` its name, once it is on the disk."""
    with open(partial(path), "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial(path), path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
