"""Index and manifest for the tars of a folder: those of img2dataset, of open_clip, or our own."""

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from bridgetower_train.data.image import check_image
from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.roots import is_remote, plain_root
from bridgetower_train.data.shards import (
    CAPTIONS_TOO_LARGE,
    INDEX_DTYPE,
    MAX_CAPTION_BYTES,
    MAX_CAPTIONS,
    NO_KEYS,
    BadRecordError,
    Captions,
    parse_caption_member,
)
from bridgetower_train.data.tar import Member
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError, DataError, FileError
from bridgetower_train.files import sha256_file
from bridgetower_train.foreign import MAX_JSON, inside, open_regular, read_bytes
from bridgetower_train.lock import hold
from data_prep.packed.tars import CAPTIONS, SPARSE, contents_of, images_of
from data_prep.shards.output import Output
from data_prep.shards.summary import LeftOut, list_left_out, most_frequent, summarize
from data_prep.shards.tars import RemoteTars, Tars
from data_prep.shards.writer import Rows, record_crc, write_index
from data_prep.source.captions import check_kinds
from data_prep.source.local import NOT_A_FILE, LinkConfig, local_path
from data_prep.source.rows import WEB

_VOTERS = 100
_LASTING = ("about", "task", "split", "several")
"""Notes of a manifest that hold for other shards too."""


@dataclass(frozen=True)
class IndexConfig(LinkConfig):
    """`bridgetower prep index`: write index.npy and manifest.json for the tars in a folder."""

    root: str = "???"
    """Folder of the tars of one corpus, or its fsspec URL (s3://bucket/cc3m): each tar is then fetched once, and index and
    manifest are written there."""
    scratch: str | None = None
    """Local folder for fetched tars, four at a time; needed where `root` is a URL."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Captions of several kinds: kind -> key of the json members with its captions, as {alt: caption, synthetic: blip}; a run may
    draw them by shares (`data.captions`). Empty: as the manifest that is there says, else those of `captions` or `caption`."""

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        if not is_remote(self.root):
            return
        if self.scratch is None:
            raise ConfigError(f"root={self.root}: is remote; set scratch to a local folder for fetched tars")
        if self.root.startswith(WEB):
            raise ConfigError(
                f"root={self.root}: a web server takes no index; make a corpus of its tars with `prep shards`, or index a copy"
            )


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

    ConfigError where it has no tar, DataError where no usable record, or where a remote tar cannot be fetched; UserError where a
    preparation is still writing it.
    """
    if is_remote(config.root):
        _index_remote(config)
        return
    folder = Path(config.root)
    if not folder.is_dir():
        raise ConfigError(f"root={folder}: no such folder; give the folder of the tars")
    with hold(folder, "root"):
        manifest = build_index(folder, config.follow_links, config.kinds)
    print(summarize(manifest, str(folder)))


def _index_remote(config: IndexConfig) -> None:
    """Index a remote folder in a temporary one, and move there what was written."""
    parent, _, name = plain_root(config.root).rpartition("/")
    if parent.endswith((":/", "://")):
        raise ConfigError(f"root={config.root}: is a whole bucket; move the tars into a folder of it, and name that")
    output = Output(parent, name)
    Path(str(config.scratch)).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="index-", dir=config.scratch) as scratch:
        folder = Path(scratch, name)
        folder.mkdir()
        tars = RemoteTars(output, folder)
        output.write("dropped.jsonl", "")  # says before hours of reading whether it can be written to
        if manifest := output.read("manifest.json"):
            (folder / "manifest.json").write_bytes(manifest)
        written = build_index(folder, kinds=config.kinds, tars=tars)
        for file in ("dropped.jsonl", "index.npy", "manifest.json"):
            if (folder / file).exists():
                output.take(folder / file, file)
    print(summarize(written, str(output)))


def build_index(
    folder: Path, follow_links: bool = False, kinds: Mapping[str, str] = NO_KEYS, tars: Tars | None = None
) -> Manifest:
    """Write `index.npy`, `manifest.json` and, where something is left out, `dropped.jsonl`. Errors and `kinds` as of `run`."""
    tars = tars or Tars(folder)
    if not tars.names:
        raise ConfigError(f"root={folder}: has no .tar; give the folder of the tars")
    old = _old_manifest(folder, follow_links)
    keys = dict(sorted((kinds or (old.caption_keys if old else {})).items()))  # as the manifest will list them
    member = "json" if keys else _caption_member(map(tars.path, tars.names), follow_links)

    def scan_one(name: str) -> _Scan:
        scan = _scan(tars.path(name), member, keys, follow_links)
        tars.done(name)
        return scan

    scans: list[_Scan] = []
    with ThreadPoolExecutor(tars.at_once) as pool:
        found = pool.map(scan_one, tars.names)
        with tqdm(desc="index", unit=" images", unit_scale=True, disable=None) as bar:
            for number, scan in enumerate(found, 1):
                scans.append(scan)
                bar.total = (bar.n + len(scan.rows)) * len(tars.names) / number  # as if all shards had as many
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
        raise DataError(f"{folder}: no usable record in its {len(tars.names)} tars; see {folder / 'dropped.jsonl'}")
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

    With the same shards all are; with others only what the corpus is about and for, not the counts of its source's rows.
    """
    if manifest is None:
        return {}, {}
    if [(info.name, info.sha256) for info in manifest.shards] == [(info.name, info.sha256) for info in shards]:
        return manifest.dropped, manifest.extra
    kept = {key: manifest.extra[key] for key in _LASTING if key in manifest.extra}
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


def _caption_member(paths: Iterable[Path], follow_links: bool) -> str:
    """The kind of member with the captions of most of the first records: json, unless txt has those of more."""
    votes: Counter[str] = Counter()
    for path in paths:
        with contextlib.suppress(OSError, BadRecordError), _open(path, follow_links) as file:
            for parts in list(contents_of(file).records.values())[:_VOTERS]:
                votes.update(kind for kind in CAPTIONS if kind in parts and _gives_captions(file, parts[kind], kind))
        if votes:
            break
    return "txt" if votes["txt"] > votes["json"] else "json"


def _gives_captions(file: BinaryIO, member: Member, kind: str) -> bool:
    try:
        return bool(_captions(file, member, kind))
    except BadRecordError:
        return False


def _scan(path: Path, member: str, keys: Mapping[str, str], follow_links: bool) -> _Scan:
    """Read a shard; whatever is wrong with it is listed in `dropped`."""
    scan, rows, noted = _Scan(), [], Counter[str]()
    try:
        with _open(path, follow_links) as file:
            size, sha256 = os.fstat(file.fileno()).st_size, sha256_file(path)
            contents = contents_of(file)
            scan.dropped += [LeftOut(f"{path.name} {loss.where}", loss.reason) for loss in contents.lost]
            for key, parts in contents.records.items():
                try:
                    row, edges, kinds = _row(file, parts, member, keys)
                except BadRecordError as error:
                    scan.dropped.append(LeftOut(f"{path.name} {key}", error.reason))
                else:
                    rows.append(row)
                    scan.edges |= edges
                    noted.update(filter(None, kinds))
    except OSError as error:
        return _Scan(dropped=[LeftOut(path.name, f"cannot be read: {error.strerror}")])
    except BadRecordError as error:
        return _Scan(dropped=[LeftOut(path.name, error.reason)])
    scan.unread = most_frequent(contents.unread)
    if not contents.records and not scan.dropped:
        scan.dropped.append(LeftOut(path.name, "no record in it"))
    if rows:
        scan.rows = np.array(rows, INDEX_DTYPE)
        captions = int(scan.rows["captions"].sum(dtype=np.int64))
        scan.info = ShardInfo(path.name, size, len(rows), captions, sha256, dict(sorted(noted.items())))
    return scan


def _row(
    file: BinaryIO, parts: dict[str, Member], suffix: str, keys: Mapping[str, str]
) -> tuple[tuple[int, ...], set[int], list[str]]:
    """A record's row of the index, with shard 0, the shorter edges of its images, from their headers, and its captions' kinds."""
    if any(part.sparse for part in parts.values()):
        raise BadRecordError(SPARSE)
    images = images_of(parts)
    member = parts.get(suffix)
    if member is None:
        raise BadRecordError(f"no {suffix}")
    captions = _captions(file, member, suffix, keys)
    if not 0 < len(captions) <= MAX_CAPTIONS:
        raise BadRecordError(CAPTIONS_TOO_LARGE if captions else "no caption")
    jpegs = [os.pread(file.fileno(), one.size, one.offset) for one in images]
    checked = map(check_image, jpegs)
    crc = record_crc(jpegs, os.pread(file.fileno(), member.size, member.offset))
    row = (0, images[0].offset, images[0].size, member.offset, member.size, len(captions), crc)
    return row, {min(one.width, one.height) for one in checked}, [kind for _, kind in captions]


def _captions(file: BinaryIO, member: Member, suffix: str, keys: Mapping[str, str] = NO_KEYS) -> Captions:
    if member.size > MAX_CAPTION_BYTES:
        raise BadRecordError(CAPTIONS_TOO_LARGE)
    return parse_caption_member(suffix, os.pread(file.fileno(), member.size, member.offset), keys)[0]
