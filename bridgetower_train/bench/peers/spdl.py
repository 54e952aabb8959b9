"""SPDL: a pipeline of threads, in which FFmpeg decodes, resizes and crops a batch at a time.

It needs FFmpeg's shared libraries, 4 to 9, on the machine.
"""

import json
import random
from collections.abc import Iterator

import spdl.io
import torch
from spdl.pipeline import PipelineBuilder
from torch import Tensor

from bridgetower_train.bench.peers import Batches, Source

THREADS = 4


def batches(source: Source) -> Batches:
    size = source.size
    square = f"scale={size}:{size}:flags=bicubic:force_original_aspect_ratio=increase,crop={size}:{size},format=pix_fmts=rgb24"

    def decode(records: list[tuple[bytes, str]]) -> tuple[Tensor, Tensor]:
        images, captions = zip(*records, strict=True)
        buffer = spdl.io.load_image_batch(list(images), width=None, height=None, filter_desc=square)
        ids = torch.stack([source.ids(caption) for caption in captions])
        return spdl.io.to_torch(buffer).permute(0, 3, 1, 2), ids

    pipeline = (
        PipelineBuilder()
        .add_source(_records(source))
        .aggregate(source.batch)
        .pipe(decode, concurrency=THREADS)
        .add_sink(2)
        .build(num_threads=THREADS)
    )
    with pipeline.auto_stop():
        yield from pipeline


def _records(source: Source) -> Iterator[tuple[bytes, str]]:
    """(encoded image, caption), shards in random order, without end."""
    while True:
        for tar in random.sample(source.tars, len(source.tars)):
            with open(tar, "rb") as file:
                members = spdl.io.iter_tarfile(file)
                for (_, image), (_, meta) in zip(members, members, strict=True):
                    yield image, json.loads(meta)["captions"][0]
