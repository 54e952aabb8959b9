"""Shards, index and manifest of a corpus: the same bytes for the same records."""

import functools
import hashlib
import itertools
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    IMAGE_TOO_LARGE,
    INDEX_DTYPE,
    MAX_CAPTION_BYTES,
    MAX_CAPTIONS,
    MAX_IMAGE_BYTES,
    NO_KEYS,
    captions_of,
)
from bridgetower_train.data.tar import BLOCK
from bridgetower_train.errors import DataError
from bridgetower_train.files import atomic_write, recreate, replacing, sha256_file

NO_CAPTION = "no caption"
DUPLICATE_KEY = "duplicate key"
MAX_KINDS = 100
"""Most kinds of captions in a corpus."""
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")

Rows = npt.NDArray[np.void]


def record_crc(images: Sequence[bytes], member: bytes) -> int:
    """The CRC-32 of a record in the index."""
    return zlib.crc32(member, functools.reduce(lambda crc, image: zlib.crc32(image, crc), images, 0))


class Shard:
    """A tar being written, at a temporary path, where it replaces what an earlier run left."""

    def __init__(self, path: Path, name: str, corpus: str, image_size: int | None) -> None:
        """`name`: its final name. `image_size`: shorter edge of every image, pixels; None where they differ."""
        self._path = path
        self._name = name
        self._corpus = corpus
        self._image_size = image_size
        self._rows: list[tuple[int, ...]] = []
        self._keys: set[str] = set()
        self._kinds: Counter[str] = Counter()
        self._file = recreate(path)
        self._digest = hashlib.sha256()
        self._size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        key: str,
        jpeg: bytes,
        captions: Sequence[str],
        meta: dict[str, Any],
        kinds: Sequence[str] = (),
        further: Sequence[bytes] = (),
    ) -> str:
        """Append a record. Returns the reason where it is dropped instead, otherwise "".

        `further` images, JPEGs, lie behind the first as `KEY.1.jpg` and so on. `kinds` are those of the captions, if any has one.
        `meta` joins them in the record's json, with `image_id` (the key) and `source` (the corpus) unless it has its own; with
        `ids` in it the captions are a task's (`captions_of`). DataError for a key that WebDataset would not read back.
        """
        if not _KEY.fullmatch(key):
            raise DataError(f"{self._path.parent}: {key!r}: a key must be 1 to 90 letters, digits, '_' and '-'")
        for image in (jpeg, *further) if self._image_size is not None else ():
            height, width = simplejpeg.decode_jpeg_header(image)[:2]
            assert min(height, width) == self._image_size, f"{key}: {width} x {height} pixels"
        clean = captions_of({"captions": list(captions), "kinds": list(kinds), "ids": meta.get("ids")})
        texts, noted = [text for text, _ in clean], Counter(kind for _, kind in clean if kind)
        named = {"kinds": [kind for _, kind in clean]} if noted else {}
        record = {"captions": texts, **named, "image_id": key, "source": self._corpus, **meta}
        member = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
        reason = self._refusal(key, [jpeg, *further], texts, member)
        if not reason:
            jpeg_at = self._append(f"{key}.jpg", jpeg)
            for number, image in enumerate(further, 1):
                self._append(f"{key}.{number}.jpg", image)
            json_at = self._append(f"{key}.json", member)
            crc = record_crc([jpeg, *further], member)
            self._rows.append((0, jpeg_at, len(jpeg), json_at, len(member), len(texts), crc))
            self._keys.add(key)
            self._kinds.update(noted)
        return reason

    def finish(self) -> tuple[ShardInfo, Rows]:
        """Complete the tar, still under its temporary name. Returns its description and the rows of its index, shard 0."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self._size % tarfile.RECORDSIZE))
        self._file.close()
        rows = np.array(self._rows, dtype=INDEX_DTYPE)
        captions = int(rows["captions"].sum(dtype=np.int64))
        kinds = dict(sorted(self._kinds.items()))
        return ShardInfo(self._name, self._size, len(rows), captions, self._digest.hexdigest(), kinds), rows

    def discard(self) -> None:
        """Remove it."""
        self._file.close()
        self._path.unlink()

    def _refusal(self, key: str, images: list[bytes], texts: list[str], member: bytes) -> str:
        if not texts:
            return NO_CAPTION
        if len(texts) > MAX_CAPTIONS or len(member) > MAX_CAPTION_BYTES:
            return CAPTIONS_TOO_LARGE
        if max(map(len, images)) > MAX_IMAGE_BYTES:
            return IMAGE_TOO_LARGE
        return DUPLICATE_KEY if key in self._keys else ""

    def _append(self, name: str, data: bytes) -> int:
        """Append a file. Returns the offset of its contents."""
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


def write_corpus(
    folder: Path,
    image_size: int | None,
    records: Iterable[tuple[Any, ...]],
    records_per_shard: int = 1000,
    extra: Mapping[str, Any] = NO_KEYS,
) -> Manifest:
    """Write a corpus in one go into `folder`, which is created, for benchmarks, rehearsals and tests.

    `records`: key, JPEG, captions, meta and perhaps more of each, as in `Shard.add`; all must be usable, and keys unique.
    `extra`: of the manifest.
    """
    folder.mkdir(parents=True)
    shards: list[ShardInfo] = []
    parts: list[Rows] = []
    remaining = iter(records)
    while part := list(itertools.islice(remaining, records_per_shard)):
        name = f"{len(shards):06d}.tar"
        shard = Shard(folder / name, name, folder.name, image_size)
        dropped = [reason for record in part if (reason := shard.add(*record))]
        assert not dropped, dropped
        info, rows = shard.finish()
        rows["shard"] = len(shards)
        shards.append(info)
        parts.append(rows)
    return write_index(folder, np.concatenate(parts), folder.name, image_size, "json", shards, {}, dict(extra))


def write_index(
    folder: Path,
    rows: Rows,
    corpus: str,
    image_size: int | None,
    caption_member: str,
    shards: list[ShardInfo],
    dropped: dict[str, int],
    extra: dict[str, Any],
    caption_keys: Mapping[str, str] = NO_KEYS,
) -> Manifest:
    """Write `index.npy` (INDEX_DTYPE) and then `manifest.json` beside the shards, in place of those that are there.

    DataError where the captions are of more than MAX_KINDS kinds.
    """
    if len(kinds := set().union(*(shard.kinds for shard in shards))) > MAX_KINDS:
        raise DataError(
            f"{corpus}: has captions of {len(kinds):,} kinds, such as {min(kinds)}; at most {MAX_KINDS} are read"
        )
    (folder / "manifest.json").unlink(missing_ok=True)
    index = folder / "index.npy"
    with replacing(index) as file:
        np.save(file, rows)
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
        caption_keys=dict(caption_keys),
        format=2 if caption_keys else 1,
    )
    atomic_write(folder / "manifest.json", manifest.to_json())
    return manifest
