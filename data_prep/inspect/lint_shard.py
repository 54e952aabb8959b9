"""What is wrong with one shard: the part of `prep lint` that runs in worker processes."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bridgetower_train.data.image import Pixels, check_image
from bridgetower_train.data.roots import is_remote
from bridgetower_train.data.shards import BadRecordError, Corpus, Record, as_list, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import DataError, FileError
from bridgetower_train.files import sha256_file
from data_prep.inspect.duplicates import image_hash, original_hash
from data_prep.inspect.lint_task import faults_of, images_of, names_of, task_of
from data_prep.inspect.places import CorporaConfig, Place
from data_prep.packed.images import NEAR_DUPLICATE
from data_prep.packed.looks import Looks

FREE_SIZE = 294
"""Size to which the images of a corpus of several sizes are resized, pixels."""

Lengths = npt.NDArray[np.int64]


class Finding(NamedTuple):
    """Something to report; `shard` and `key` are empty where it concerns more than one."""

    corpus: str
    shard: str
    key: str
    reason: str
    same_as: str = ""
    """Of a duplicate: the first image that it equals, or that it looks like."""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.corpus, self.shard, self.key)))


class ShardReport(NamedTuple):
    """What reading the records of a shard found."""

    faults: list[Finding]
    near: list[Finding]
    """Images that look like one of `against`."""
    hashes: npt.NDArray[np.uint64]
    """uint64 (2, records, 2): of the stored images, and of the originals."""
    characters: Lengths
    """Length of each caption."""
    tokens: Lengths
    """The same in tokens with `<s>` and `</s>`, uncut; empty without a tokenizer."""
    ids: npt.NDArray[np.uint64]
    """uint64 (samples of a task, 2): a hash of each id, and the record's place in the shard."""


def check_folder(corpus: Corpus) -> Iterator[Finding]:
    """What is wrong with manifest and index. The cache has checked the files of a remote corpus."""
    manifest = corpus.manifest
    shard = corpus.index["shard"]
    if not np.array_equal(shard, np.repeat(np.arange(len(manifest.shards)), [s.records for s in manifest.shards])):
        yield Finding(corpus.name, "", "", "index and manifest differ in the records of their shards")
    if task_of(manifest) and manifest.extra.get("split") != "test":
        try:
            names_of(corpus)
        except (DataError, FileError) as error:
            yield Finding(corpus.name, "", "", str(error))
    if is_remote(corpus.folder):
        return
    if sha256_file(corpus.path("index.npy")) != manifest.index_sha256:
        yield Finding(corpus.name, "", "", "index.npy is not the one that the manifest describes")
    named = {info.name for info in manifest.shards}
    for name in sorted(os.listdir(corpus.folder)):
        if name.endswith(".tar") and not name.startswith(".") and name not in named:
            yield Finding(corpus.name, name, "", "shard that the manifest does not name")


def check_shard(
    config: CorporaConfig, tokenizer: str | None, looks: Looks | None, task: tuple[Place, int]
) -> ShardReport:
    """Read a shard, given by (corpus, number of the shard), every record as training would."""
    place, shard = task
    corpus = _corpus(config, place)
    info = corpus.manifest.shards[shard]
    start, stop = corpus.shard_rows[shard : shard + 2].tolist()
    hashes = np.zeros((2, stop - start, 2), np.uint64)
    try:
        faults = [Finding(place.name, info.name, "", reason) for reason in _check_file(corpus, shard)]
        near: list[Finding] = []
        captions: list[str] = []
        keys: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        ids: list[tuple[int, int]] = []
        classes = _classes(config, place)
        for row in range(start, stop):
            try:
                record, images, pixels, reason = _read(corpus, row)
            except BadRecordError as error:
                faults.append(Finding(place.name, info.name, corpus.key(row), error.reason))
                continue
            key = record.key
            keys[key] += 1
            if keys[key] == 2:
                faults.append(Finding(place.name, info.name, key, "key that occurs twice in its shard"))
            if reason:
                faults.append(Finding(place.name, info.name, key, reason))
            if looks and (known := looks.nearest(pixels)) and known != f"{corpus.name}/{key}":
                near.append(Finding(place.name, info.name, key, NEAR_DUPLICATE, same_as=known))
            if task_of(corpus.manifest):
                wrong = faults_of(record, corpus.manifest, classes)
                faults += [Finding(place.name, info.name, key, reason) for reason in wrong]
                ids += [(_id_hash(sample), row - start) for sample in as_list(record.meta.get("ids"))]
            captions += record.captions
            kinds.update(filter(None, record.kinds))
            hashes[0, row - start] = np.frombuffer(image_hash(b"".join(images)), np.uint64)
            hashes[1, row - start] = np.frombuffer(original_hash(record.meta), np.uint64)
        if not faults and kinds != info.kinds:
            faults.append(Finding(place.name, info.name, "", "records and manifest differ in the kinds of captions"))
        characters = np.array([len(caption) for caption in captions], np.int64)
        tokens = _text(tokenizer).lengths(captions) if tokenizer and captions else np.empty(0, np.int64)
        return ShardReport(faults, near, hashes, characters, tokens, np.array(ids, np.uint64).reshape(-1, 2))
    except (DataError, FileError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"shard cannot be read: {error.strerror}, and with it its {stop - start:,} records"
    nothing = np.empty(0, np.int64)
    no_ids = np.empty((0, 2), np.uint64)
    return ShardReport(
        [Finding(place.name, info.name, "", reason)], [], np.zeros_like(hashes), nothing, nothing, no_ids
    )


def _check_file(corpus: Corpus, shard: int) -> Iterator[str]:
    """Differences between a shard and the one that was indexed. OSError where a local one cannot be read."""
    info = corpus.manifest.shards[shard]
    if not is_remote(corpus.folder):  # the cache checks the others
        path = corpus.path(info.name)
        size = os.path.getsize(path)
        if size != info.bytes:
            yield f"shard has another size than the manifest says: {size:,} bytes, not {info.bytes:,}"
        elif sha256_file(path) != info.sha256:
            yield "shard has another SHA-256 than the manifest says"
    rows = corpus.index[slice(*corpus.shard_rows[shard : shard + 2])]
    if int(rows["captions"].sum(dtype=np.int64)) != info.captions:
        yield "index and manifest differ in the number of captions"


def _read(corpus: Corpus, row: int) -> tuple[Record, Sequence[bytes | memoryview], Pixels, str]:
    """(record, its images, pixels of the first, a fault that training would not notice or "").

    BadRecordError where training would refuse it.
    """
    record = corpus.read(row)
    captions, indexed = len(record.captions), int(corpus.index["captions"][row])
    if captions < indexed:
        raise BadRecordError("fewer captions than indexed")
    images, expected = images_of(record, corpus.manifest), corpus.manifest.image_size
    checked = [check_image(image) for image in images]
    pixels, *_ = [image.decode(expected or FREE_SIZE) for image in checked]
    if captions > indexed:
        return record, images, pixels, "more captions than indexed"
    if expected is not None and any(min(image.width, image.height) != expected for image in checked):
        return record, images, pixels, "shorter edge that is not the manifest's image_size"
    return record, images, pixels, ""


def _id_hash(sample: Any) -> int:
    return int.from_bytes(
        blake2b(f"{type(sample).__name__}{sample}".encode("utf-8", "replace"), digest_size=8).digest(), "big"
    )


@lru_cache(maxsize=8)
def _classes(config: CorporaConfig, place: Place) -> int | None:
    """How many answers or classes a corpus names; None where it is of no task, or they cannot be read."""
    corpus = _corpus(config, place)
    try:
        return len(names_of(corpus)) if task_of(corpus.manifest) else None
    except (DataError, FileError):
        return None


def forget_corpora() -> None:
    """Open all again: they may have changed since this process opened them."""
    _corpus.cache_clear()
    _classes.cache_clear()


@lru_cache(maxsize=8)
def _corpus(config: CorporaConfig, place: Place) -> Corpus:
    return open_corpus(*place, config.cache, config.follow_links)


_text = lru_cache(maxsize=1)(CaptionTokenizer.load)
