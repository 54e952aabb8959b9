"""A large corpus of one small shard, for rehearsals and benchmarks: a real index of images that repeat."""

import shutil
from pathlib import Path

import numpy as np

from bridgetower_train.data.manifest import Manifest, ShardInfo
from bridgetower_train.data.shards import INDEX_DTYPE, Corpus
from bridgetower_train.files import sha256_file

RECORDS_PER_SHARD = 1000
_COPY = "shard"


def repeat_shard(source: Corpus, folder: Path, records: int) -> Manifest:
    """Write a corpus of `records` records into `folder`, which is created: the first shard of `source` over and over.

    Its shards, of 1,000 records each, are links to a copy of that file.
    """
    folder.mkdir()
    shutil.copyfile(source.path(source.manifest.shards[0].name), folder / _COPY)
    info, last = source.manifest.shards[0], source.shard_rows[1]
    rows = np.resize(source.index[:last], RECORDS_PER_SHARD)
    index = np.lib.format.open_memmap(folder / "index.npy", "w+", INDEX_DTYPE, (records,))
    shards = []
    for number, begin in enumerate(range(0, records, RECORDS_PER_SHARD)):
        part = index[begin : begin + RECORDS_PER_SHARD]
        part[:] = rows[: len(part)]
        part["shard"] = number
        name = f"{number:06d}.tar"
        (folder / name).symlink_to(_COPY)
        captions = int(rows["captions"][: len(part)].sum())
        kinds = {kind: count * captions // info.captions for kind, count in info.kinds.items()}
        shards.append(ShardInfo(name, info.bytes, len(part), captions, info.sha256, kinds))
    index.flush()
    manifest = Manifest(
        corpus=folder.name,
        image_size=source.manifest.image_size,
        caption_member=source.manifest.caption_member,
        shards=shards,
        images=records,
        captions=sum(shard.captions for shard in shards),
        index_sha256=sha256_file(folder / "index.npy"),
        extra=source.manifest.extra,
        caption_keys=source.manifest.caption_keys,
        format=source.manifest.format,
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest
