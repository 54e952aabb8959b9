"""Shards on disk: WebDataset tars, with `index.npy` (one row per record) and `manifest.json` beside them.

A record is one image with its captions. The index states where both are, so reading any record of any shard takes one
`pread`; its CRC tells whether the shard has changed since.
"""

import errno
import functools
import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32  # zlib's, eight times faster

from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.manifest import Manifest, ShardInfo, reindex_hint
from bridgetower_train.data.roots import is_remote, plain_root, read_small, require_root
from bridgetower_train.data.tar import BLOCK, member_key, member_name, parse_header
from bridgetower_train.display import plural
from bridgetower_train.errors import ConfigError, DataError, UserError, nearest
from bridgetower_train.files import sha256_file
from bridgetower_train.foreign import MAX_JSON, decode_text, inside, open_regular, read_bytes

T = TypeVar("T")

INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),
        ("jpg_offset", "<u8"),
        ("jpg_size", "<u4"),
        ("json_offset", "<u8"),
        ("json_size", "<u4"),
        ("captions", "<u2"),
        ("crc", "<u4"),
    ]
)
"""One row of `index.npy`: shard number; offset in the tar and size of the image and of the caption member, in bytes;
number of captions; CRC-32 of the image's bytes, those of a second image, if the record has one, and the caption member's. Indexes
of before left the second image out."""
MAX_IMAGE_BYTES = 64 << 20
"""Larger images are rejected unread."""
MAX_IMAGES = 2
"""Most images of a record."""
MAX_CAPTION_BYTES = 1 << 20
"""Larger caption members are rejected unread."""
MAX_CAPTIONS = 0xFFFF
"""Most captions per record that the index can count."""
MAX_PIXELS = 100_000_000
"""Images whose header states more pixels are rejected as decompression bombs."""

IMAGE_TOO_LARGE = "image over 64 MiB"
CAPTIONS_TOO_LARGE = "caption member over 1 MiB"
NO_KEYS: Mapping[str, str] = MappingProxyType({})

Captions = list[tuple[str, str]]
"""Captions, each with its kind, "" where it has none."""

_ROW = struct.Struct("<IQIQIHI")  # INDEX_DTYPE: struct unpacks a row several times faster than numpy
_OPEN_SHARDS = 64
_ONE_READ_GAP = 1 << 16  # most bytes between image and captions at which one read fetches both
_STATS_AT_ONCE = 16
_NPY_HEADER_BYTES = 4096  # more than numpy writes
_KIND = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_LINKS = "follow_links=true, or in a run data.follow_links"

Index = np.memmap[Any, np.dtype[np.void]]


class BadRecordError(Exception):
    """A record that cannot be used; `reason` is why, in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def clean_captions(captions: Iterable[Any], kinds: Iterable[Any] = ()) -> dict[str, str]:
    """The usable captions in order, stripped, each with its kind, "" where it has none of `kinds`.

    Empty captions, duplicates and values that are not strings are dropped. Lone surrogates, which JSON can contain and no
    tokenizer accepts, become `?`.
    """
    clean: dict[str, str] = {}
    for caption, kind in zip(captions, chain(kinds, repeat(""))):  # noqa: B905
        if isinstance(caption, str) and (text := caption.strip()):
            clean.setdefault(valid_text(text), kind if kind and is_kind(kind) else "")
    return clean


def captions_of(meta: Mapping[str, Any]) -> Captions:
    """The captions under `captions` in the json of a record, with their kinds under `kinds`; each may be a text or a list.

    They are clean (`clean_captions`). But where each has one of the `ids`, they are the texts of a task's samples (questions,
    hypotheses, ...), and stay as they are, equal and empty ones too.
    """
    captions, ids = as_list(meta.get("captions")), meta.get("ids")
    if isinstance(ids, list) and len(ids) == len(captions) and all(isinstance(text, str) for text in captions):
        return [(valid_text(text), "") for text in captions]
    return list(clean_captions(captions, as_list(meta.get("kinds"))).items())


def valid_text(text: str) -> str:
    """A text without lone surrogates, which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def is_kind(name: Any) -> bool:
    """Whether it can name a kind of captions: 1 to 40 ASCII letters, digits, '_', '-' and '.'."""
    return isinstance(name, str) and _KIND.fullmatch(name) is not None


def parse_caption_member(
    member: str, data: bytes, keys: Mapping[str, str] = NO_KEYS
) -> tuple[Captions, dict[str, Any]]:
    """(captions with their kinds, whole json) of a `member` json or txt. BadRecordError if it cannot be read.

    `keys`: kind -> key of the json with its captions, a text or a list. Without them they are those of `captions_of`, or else
    under `caption`, a text or a list too.
    """
    if member == "txt":
        return list(clean_captions([decode_text(data)]).items()), {}
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRecordError("json cannot be read") from None
    if not isinstance(meta, dict):
        raise BadRecordError("json cannot be read")
    if keys:
        pairs = [(caption, kind) for kind, key in keys.items() for caption in as_list(meta.get(key))]
        return list(clean_captions([caption for caption, _ in pairs], [kind for _, kind in pairs]).items()), meta
    return captions_of(meta) or list(clean_captions(as_list(meta.get("caption"))).items()), meta


def as_list(value: Any) -> list[Any]:
    """A list as it is, and anything else as its only element."""
    return value if isinstance(value, list) else [value]


def image_identity(meta: dict[str, Any]) -> str | None:
    """What tells an image from all others, whichever corpus it is in: its id in COCO, else its URL; None if neither is noted."""
    coco = meta.get("coco_id")
    if coco is None and isinstance(meta.get("coco_url"), str):  # shards of COCO before 0.2
        coco = meta["coco_url"].rpartition("/")[2].partition(".")[0].rpartition("_")[2].lstrip("0")
    if isinstance(coco, int | str):
        return f"coco:{coco}"
    return meta["url"] if isinstance(meta.get("url"), str) else None


class Record:
    """An image and its captions, as read from a shard."""

    __slots__ = ("_caption_member", "_corpus", "_further", "_parsed", "_row", "image")

    def __init__(
        self, corpus: "Corpus", row: int, image: memoryview, caption_member: memoryview, further: list[memoryview]
    ) -> None:
        """`further`: its images after the first, where they have been read already."""
        self.image = image
        """The encoded image."""
        self._further = further
        self._corpus = corpus
        self._row = row
        self._caption_member = caption_member
        self._parsed: tuple[Captions, dict[str, Any]] | None = None

    @property
    def key(self) -> str:
        """`Corpus.key` of it."""
        return self._corpus.key(self._row)

    def images(self, count: int) -> list[memoryview]:
        """Its first `count` images: `KEY.jpg`, then `KEY.1.jpg` and so on right behind it; BadRecordError if it has fewer."""
        found = [self.image, *(self._further or self._corpus.further_images(self._row))][:count]
        if len(found) < count:
            raise BadRecordError(f"{plural(len(found), 'image')} instead of {count}")
        return found

    @property
    def captions(self) -> list[str]:
        """Its captions, clean or, of a task's samples, as they are: see `captions_of`."""
        return [caption for caption, _ in self._contents()[0]]

    @property
    def kinds(self) -> list[str]:
        """The kind of each caption, "" where it has none."""
        return [kind for _, kind in self._contents()[0]]

    @property
    def meta(self) -> dict[str, Any]:
        """The whole json; empty if captions are txt."""
        return self._contents()[1]

    def _contents(self) -> tuple[Captions, dict[str, Any]]:
        if self._parsed is None:
            manifest = self._corpus.manifest
            self._parsed = parse_caption_member(
                manifest.caption_member, bytes(self._caption_member), manifest.caption_keys
            )
        return self._parsed


class _OpenFile:
    """A descriptor that closes with its last reference: a thread may still read a file that another has evicted."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


def _open_shard(
    folder: str, shards: list[ShardInfo], cache: ShardCache | None, follow_links: bool, shard: int
) -> _OpenFile:
    if shard >= len(shards):
        raise BadRecordError("the index refers to a shard that is not in the manifest")
    info = shards[shard]
    if cache is not None:
        return _OpenFile(cache.open(f"{folder}/{info.name}", info.bytes, info.sha256))
    try:
        with open_regular(inside(folder, info.name, follow_links, _LINKS)) as file:
            return _OpenFile(os.dup(file.fileno()))
    except OSError as error:
        raise BadRecordError(f"shard cannot be opened: {error.strerror}") from None


def _read_members(
    file: _OpenFile, image_at: int, image_size: int, caption_at: int, caption_size: int
) -> tuple[memoryview, memoryview]:
    """(image, captions' member) of a record, in one read where they are close together."""
    start = min(image_at, caption_at)
    size = max(image_at + image_size, caption_at + caption_size) - start
    if size > image_size + caption_size + _ONE_READ_GAP:
        image, member = os.pread(file.fd, image_size, image_at), os.pread(file.fd, caption_size, caption_at)
        return memoryview(image), memoryview(member)
    data = memoryview(os.pread(file.fd, size, start))
    image_at, caption_at = image_at - start, caption_at - start
    return data[image_at : image_at + image_size], data[caption_at : caption_at + caption_size]


def _read_further(file: _OpenFile, at: int, size: int, key: str) -> list[memoryview]:
    """The record's images behind that of `size` bytes at `at`."""
    found = list[memoryview]()
    for number in range(1, MAX_IMAGES):
        at += -(-size // BLOCK) * BLOCK
        header = parse_header(os.pread(file.fd, BLOCK, at))
        if header is None or member_key(header.name) != (key, f"{number}.jpg"):
            break
        if header.size > MAX_IMAGE_BYTES:
            raise BadRecordError(IMAGE_TOO_LARGE)
        at, size = at + BLOCK, header.size
        found.append(memoryview(os.pread(file.fd, size, at)))
    return found


class Corpus:
    """The records of one corpus, by row; opened by `open_corpus`. It may be forked and pickled."""

    def __init__(
        self, folder: str, name: str, manifest: Manifest, cache: ShardCache | None, follow_links: bool = False
    ) -> None:
        """`folder` has the shards; with a cache it is a URL. Errors and `follow_links` as of `open_corpus`."""
        self.folder = folder
        self.name = name
        self.manifest = manifest
        keys = json.dumps(manifest.caption_keys, sort_keys=True) if manifest.caption_keys else ""
        self.digest = hashlib.sha256(f"{manifest.index_sha256}{keys}".encode()).hexdigest()
        """Changes with any record, with the order of records, and with the keys under which their captions are."""
        self.shard_rows: npt.NDArray[np.int64] = np.cumsum([0, *(s.records for s in manifest.shards)], dtype=np.int64)
        """int64 (shards + 1): the first row of each shard, then the number of rows."""
        self._cache = cache
        self._follow_links = follow_links
        self._index_path, self.index = self._open_index()
        """INDEX_DTYPE (images,), memory-mapped."""
        self._rows = self.index.view(np.uint8).data
        open_shard = functools.partial(_open_shard, folder, manifest.shards, cache, follow_links)
        self._file = functools.lru_cache(maxsize=_OPEN_SHARDS)(open_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.folder, self.name, self.manifest, self._cache, self._follow_links)

    def path(self, name: str) -> str:
        """Path of a file of a local corpus. FileError if it is a link that leads outside and may not be followed."""
        return str(inside(self.folder, name, self._follow_links, _LINKS))

    def read(self, row: int) -> Record:
        """The record of a row.

        BadRecordError if its shard is missing, shorter than indexed or changed, or if a member is too large;
        DataError if a remote shard cannot be fetched, FileError if a local one is a link that leads outside, or no file.
        """
        shard, image_at, image_size, caption_at, caption_size, _, crc = _ROW.unpack_from(self._rows, row * _ROW.size)
        if image_size > MAX_IMAGE_BYTES:
            raise BadRecordError(IMAGE_TOO_LARGE)
        if caption_size > MAX_CAPTION_BYTES:
            raise BadRecordError(CAPTIONS_TOO_LARGE)
        place = image_at, image_size, caption_at, caption_size
        try:
            image, member = self._with(shard, lambda file: _read_members(file, *place))
        except (OSError, OverflowError) as error:
            raise BadRecordError(f"shard cannot be read: {error}") from None
        if len(image) + len(member) != image_size + caption_size:
            raise BadRecordError("shard ends before the record")
        further = list[memoryview]()
        if crc32(member, crc32(image)) != crc:
            further = self.further_images(row)
            if crc32(member, functools.reduce(lambda sum, one: crc32(one, sum), further, crc32(image))) != crc:
                raise BadRecordError("changed since it was indexed")
        return Record(self, row, image, member, further)

    def _with(self, shard: int, read: Callable[[_OpenFile], T]) -> T:
        """What `read` finds in a shard. One that another host has replaced (NFS) is opened again."""
        try:
            return read(self._file(shard))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self._file.cache_clear()
            return read(self._file(shard))

    def further_images(self, row: int) -> list[memoryview]:
        """The images of a record after the first. Errors as of `read`."""
        shard, at, size, *_ = _ROW.unpack_from(self._rows, row * _ROW.size)
        key = self.key(row)
        try:
            return self._with(shard, lambda file: _read_further(file, at, size, key))
        except (OSError, OverflowError) as error:
            raise BadRecordError(f"shard cannot be read: {error}") from None

    def key(self, row: int) -> str:
        """Name of the image in the tar up to its first dot, as in webdataset, even if the rest is damaged; or `row N`."""
        shard, image_at, *_ = _ROW.unpack_from(self._rows, row * _ROW.size)
        try:
            name = self._with(shard, lambda file: member_name(file.fd, image_at))
        except (OSError, OverflowError, BadRecordError):
            name = None
        return f"row {row}" if name is None else member_key(name)[0]

    def prefetch(self, shards: Iterable[int]) -> None:
        """Fetch shards of a remote root in the background, in this order; does nothing for a local root."""
        if self._cache is not None:
            infos = [self.manifest.shards[shard] for shard in shards]
            self._cache.prefetch([(f"{self.folder}/{info.name}", info.bytes, info.sha256) for info in infos])

    def check_shards(self) -> None:
        """DataError naming every local shard whose size differs from the manifest's, or the index if its SHA-256 does.

        FileError if one is a link that leads outside and may not be followed.
        Remote files are checked when they are fetched or first opened. An index of 14 million rows takes about 0.3 s, 14,000
        shards on a local disk less: one rank should check for all.
        """
        if self._cache is not None:
            return
        with ThreadPoolExecutor(_STATS_AT_ONCE) as pool:
            wrong = [line for line in pool.map(self._check_size, self.manifest.shards) if line]
        if wrong:
            raise DataError(
                f"{self.folder}: changed since it was indexed: {'; '.join(wrong)}; {reindex_hint(self.folder)}"
            )
        if sha256_file(self._index_path) != self.manifest.index_sha256:
            hint = reindex_hint(self.folder)
            raise DataError(f"{self._index_path}: is not the index that its manifest describes; {hint}")

    def _check_size(self, info: ShardInfo) -> str | None:
        try:
            size = os.path.getsize(self.path(info.name))
        except OSError as error:
            return f"{info.name} ({error.strerror})"
        return None if size == info.bytes else f"{info.name} ({size:,} bytes, not {info.bytes:,})"

    def _open_index(self) -> tuple[str, Index]:
        images = self.manifest.images
        if self._cache is not None:
            url, size = f"{self.folder}/index.npy", images * _ROW.size + _NPY_HEADER_BYTES
            path = str(self._cache.fetch(url, size, self.manifest.index_sha256))
        else:
            path = self.path("index.npy")
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
            index = np.lib.format.open_memmap(path, mode="r")
            whole = index.dtype == INDEX_DTYPE and index.shape == (images,) and size == index.offset + index.nbytes
        except Exception as error:  # numpy raises whatever Python's parser does with a header that is none
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"{path}: cannot be read ({reason}); {reindex_hint(self.folder)}") from None
        if not whole:
            raise DataError(f"{path}: does not have the {images:,} rows of its manifest; {reindex_hint(self.folder)}")
        return path, index


def open_corpus(
    root: str | os.PathLike[str], name: str, cache: ShardCache | None = None, follow_links: bool = False
) -> Corpus:
    """The corpus `name` under `root`, a folder or an fsspec URL, which needs `cache`.

    `follow_links`: the files in the corpus folder, which may be a link itself, may be links that lead outside. Takes time in
    proportion to the shards, not to the records. ConfigError if there is no such folder, or no cache for a remote one;
    DataError if manifest or index is missing or they do not match; FileError if one is a link that may not be followed.
    """
    root = plain_root(os.fspath(root))
    folder, path = f"{root}/{name}", f"{root}/{name}/manifest.json"
    if is_remote(root) and cache is None:
        raise ConfigError(f"data.root={root}: is remote; set data.cache_dir to a folder for its shards")
    try:
        if is_remote(root):
            text = read_small(root, f"{name}/manifest.json")
        else:
            text = read_bytes(inside(folder, "manifest.json", follow_links, _LINKS), MAX_JSON)
    except OSError as error:
        raise _missing(root, name, error) from None
    return Corpus(folder, name, Manifest.from_json(text, path), cache if is_remote(root) else None, follow_links)


def _missing(root: str, name: str, error: OSError) -> UserError:
    """The error to raise when the manifest cannot be read: which part of the path is missing."""
    folder = f"{root}/{name}"
    require_root(root)
    if not os.path.isdir(folder):
        corpora = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        return ConfigError(
            f"{folder}: no such folder; data.root has {', '.join(corpora) or 'none'}{nearest(name, corpora)}"
        )
    return DataError(f"{folder}/manifest.json: {error.strerror}; {reindex_hint(folder)}")
