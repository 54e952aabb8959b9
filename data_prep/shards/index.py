"""Index and manifest for the tars of a folder: those of img2dataset, of open_clip, or our own."""

import contextlib
import os
import zlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from bridgetower_train.data.image import check_image
from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    IMAGE_TOO_LARGE,
    INDEX_DTYPE,
    MAX_CAPTION_BYTES,
    MAX_CAPTIONS,
    MAX_IMAGE_BYTES,
    NO_KEYS,
    BadRecordError,
    parse_caption_member,
)
from bridgetower_train.data.tar import Gap, Member, member_key, walk_tar
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError, DataError, FileError
from bridgetower_train.files import sha256_file
from bridgetower_train.foreign import MAX_JSON, inside, open_regular, read_bytes
from bridgetower_train.lock import hold
from data_prep.shards.summary import LeftOut, list_left_out, most_frequent, summarize
from data_prep.shards.writer import Rows, write_index
from data_prep.source.captions import check_kinds
from data_prep.source.local import NOT_A_FILE, LinkConfig, local_path

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of image members; where a record has several, the first of these is taken."""
CAPTIONS = ("json", "txt")
"""Suffixes of caption members; a corpus uses one of them throughout. All other members are left unread."""
SPARSE = "sparse in the tar"

_VOTERS = 100


@dataclass(frozen=True)
class IndexConfig(LinkConfig):
    """`bridgetower prep index`: write index.npy and manifest.json for the tars in a folder."""

    root: str = "???"
    """Folder of the tars of one corpus."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Captions of several kinds: kind -> key of the json members with its captions, as {alt: caption, synthetic: blip}; a run may
    draw them by shares (`data.captions`). Empty: as the manifest that is there says, else those of `captions` or `caption`."""

    def __post_init__(self) -> None:
        check_kinds(self.kinds)


@dataclass
class _Scan:
    """What one shard contains."""

    info: ShardInfo | None = None
    rows: Rows = field(default_factory=lambda: np.empty(0, INDEX_DTYPE))
    dropped: list[LeftOut] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    edges: set[int] = field(default_factory=set)
    """Shorter edges of its images."""


def run(config: IndexConfig) -> None:
    """Index `config.root` and print what is in it.

    ConfigError where it has no tar, DataError where no usable record, UserError where a preparation is still writing it.
    """
    folder = Path(config.root)
    if not folder.is_dir():
        raise ConfigError(f"root={folder}: no such folder; give the folder of the tars")
    with hold(folder, "root"):
        manifest = build_index(folder, config.follow_links, config.kinds)
    print(summarize(manifest, str(folder)))


def build_index(folder: Path, follow_links: bool = False, kinds: Mapping[str, str] = NO_KEYS) -> Manifest:
    """Write `index.npy`, `manifest.json` and, where something is left out, `dropped.jsonl`. Errors and `kinds` as of `run`."""
    paths = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
    if not paths:
        raise ConfigError(f"root={folder}: has no .tar; give the folder of the tars")
    old = _old_manifest(folder, follow_links)
    keys = dict(sorted((kinds or (old.caption_keys if old else {})).items()))  # as the manifest will list them
    member = "json" if keys else _caption_member(paths, follow_links)
    scans: list[_Scan] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda path: _scan(path, member, keys, follow_links), paths)
        with tqdm(desc="index", unit=" images", unit_scale=True, disable=None) as bar:
            for number, scan in enumerate(found, 1):
                scans.append(scan)
                bar.total = (bar.n + len(scan.rows)) * len(paths) / number  # as if all shards had as many
                bar.update(len(scan.rows))
    dropped = [line for scan in scans for line in scan.dropped]
    list_left_out(folder, dropped)
    met = Counter[str]()
    for scan in scans:
        met.update(scan.unread)
    if unread := most_frequent(met):
        found = ", ".join(f"{suffix or 'none'} {count:,}" for suffix, count in unread.items())
        print_line(f"left unread by suffix, which begins at the first dot of a name: {found}")
    usable = [scan for scan in scans if len(scan.rows)]
    if not usable:
        raise DataError(f"{folder}: no usable record in its {len(paths)} tars; see {folder / 'dropped.jsonl'}")
    for number, scan in enumerate(usable):
        scan.rows["shard"] = number
    edges = set().union(*(scan.edges for scan in usable))
    shards = [scan.info for scan in usable if scan.info is not None]
    before, extra = _valid_notes(old, shards)
    return write_index(
        folder,
        np.concatenate([scan.rows for scan in usable]),
        corpus=folder.resolve().name,
        image_size=edges.pop() if len(edges) == 1 else None,
        caption_member=member,
        shards=shards,
        dropped={**before, **Counter(line.reason for line in dropped)},
        extra={**extra, **({"unread_members": dict(unread)} if unread else {})},
        caption_keys=keys,
    )


def _old_manifest(folder: Path, follow_links: bool) -> Manifest | None:
    """The manifest that is there, if it can be read."""
    try:
        path = inside(folder, "manifest.json", follow_links)
        return Manifest.from_json(read_bytes(path, MAX_JSON), str(path))
    except (OSError, DataError, FileError):
        return None


def _valid_notes(manifest: Manifest | None, shards: list[ShardInfo]) -> tuple[dict[str, int], dict[str, Any]]:
    """(what was dropped, notes of the writer) from the old manifest, as far as they are still valid.

    With the same shards all are; with others only what the corpus is about, not the counts of its source's rows.
    """
    if manifest is None:
        return {}, {}
    if [(info.name, info.sha256) for info in manifest.shards] == [(info.name, info.sha256) for info in shards]:
        return manifest.dropped, manifest.extra
    kept = {"about": manifest.extra["about"]} if "about" in manifest.extra else {}
    if lost := sorted(manifest.extra.keys() - kept.keys()):
        print_line(
            f"shards differ from those of the old manifest; its {', '.join(lost)} are no longer valid and left out"
        )
    return {}, kept


def _open(path: Path, follow_links: bool) -> BinaryIO:
    """A tar, for reading. BadRecordError where it is a link out of its folder, or no file; OSError."""
    try:
        return open_regular(local_path(str(path.parent), path.name, follow_links))
    except FileError:
        raise BadRecordError(NOT_A_FILE) from None


def _caption_member(paths: list[Path], follow_links: bool) -> str:
    """The kind of member with the captions of most of the first records: json, unless txt has those of more."""
    votes: Counter[str] = Counter()
    for path in paths:
        with contextlib.suppress(OSError, BadRecordError), _open(path, follow_links) as file:
            for parts in list(_members(file, path.name, _Scan()).values())[:_VOTERS]:
                votes.update(kind for kind in CAPTIONS if kind in parts and _gives_captions(file, parts[kind], kind))
        if votes:
            break
    return "txt" if votes["txt"] > votes["json"] else "json"


def _gives_captions(file: BinaryIO, member: Member, kind: str) -> bool:
    try:
        return bool(_captions(file, member, kind))
    except BadRecordError:
        return False


def _members(file: BinaryIO, shard: str, scan: _Scan) -> dict[str, dict[str, Member]]:
    """The members of a tar by record, {key: {suffix: member}}; `scan` takes the others."""
    records: dict[str, dict[str, Member]] = {}
    for found in walk_tar(file):
        if isinstance(found, Gap):
            scan.dropped.append(LeftOut(f"{shard} bytes {found.offset}-{found.offset + found.size}", found.reason))
            continue
        key, suffix = member_key(found.name)
        if suffix not in IMAGES and suffix not in CAPTIONS:
            scan.unread[suffix] += 1
            continue
        parts = records.setdefault(key, {})
        if suffix in parts:
            scan.dropped.append(LeftOut(f"{shard} {found.name}", "duplicate member"))
            if len(parts) == 1:  # the other member of the first one is lost: do not take that of the second
                parts.clear()
        parts.setdefault(suffix, found)
    return records


def _scan(path: Path, member: str, keys: Mapping[str, str], follow_links: bool) -> _Scan:
    """Read a shard; whatever is wrong with it is listed in `dropped`."""
    scan, rows, noted = _Scan(), [], Counter[str]()
    try:
        with _open(path, follow_links) as file:
            size, sha256 = os.fstat(file.fileno()).st_size, sha256_file(path)
            records = _members(file, path.name, scan)
            for key, parts in records.items():
                try:
                    row, edge, kinds = _row(file, parts, member, keys)
                except BadRecordError as error:
                    scan.dropped.append(LeftOut(f"{path.name} {key}", error.reason))
                else:
                    rows.append(row)
                    scan.edges.add(edge)
                    noted.update(filter(None, kinds))
    except OSError as error:
        return _Scan(dropped=[LeftOut(path.name, f"cannot be read: {error.strerror}")])
    except BadRecordError as error:
        return _Scan(dropped=[LeftOut(path.name, error.reason)])
    scan.unread = most_frequent(scan.unread)
    if not records and not scan.dropped:
        scan.dropped.append(LeftOut(path.name, "no record in it"))
    if rows:
        scan.rows = np.array(rows, INDEX_DTYPE)
        captions = int(scan.rows["captions"].sum(dtype=np.int64))
        scan.info = ShardInfo(path.name, size, len(rows), captions, sha256, dict(sorted(noted.items())))
    return scan


def _row(
    file: BinaryIO, parts: dict[str, Member], suffix: str, keys: Mapping[str, str]
) -> tuple[tuple[int, ...], int, list[str]]:
    """A record's row of the index, with shard 0, the shorter edge of its image, from its header, and its captions' kinds."""
    image = next((parts[name] for name in IMAGES if name in parts), None)
    member = parts.get(suffix)
    if any(part.sparse for part in parts.values()):
        raise BadRecordError(SPARSE)
    if image is None or member is None:
        raise BadRecordError("no image" if image is None else f"no {suffix}")
    if image.size > MAX_IMAGE_BYTES:
        raise BadRecordError(IMAGE_TOO_LARGE)
    captions = _captions(file, member, suffix, keys)
    if not 0 < len(captions) <= MAX_CAPTIONS:
        raise BadRecordError(CAPTIONS_TOO_LARGE if captions else "no caption")
    jpeg = os.pread(file.fileno(), image.size, image.offset)
    checked = check_image(jpeg)
    crc = zlib.crc32(os.pread(file.fileno(), member.size, member.offset), zlib.crc32(jpeg))
    row = (0, image.offset, image.size, member.offset, member.size, len(captions), crc)
    return row, min(checked.width, checked.height), list(captions.values())


def _captions(file: BinaryIO, member: Member, suffix: str, keys: Mapping[str, str] = NO_KEYS) -> dict[str, str]:
    if member.size > MAX_CAPTION_BYTES:
        raise BadRecordError(CAPTIONS_TOO_LARGE)
    return parse_caption_member(suffix, os.pread(file.fileno(), member.size, member.offset), keys)[0]
