"""Other loaders, on the same encoded images and captions as ours, each as its own documentation advises.

A peer is a module with `batches(source)`; what it reads that is no tar, it writes into `source.folder` first. It runs in
a process of its own without workers, whose CPU time, threads included, is then its own too.
"""

import importlib
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridgetower_train.config import ModelConfig
from bridgetower_train.data.shards import Corpus
from bridgetower_train.data.text import CaptionTokenizer

PEERS: Mapping[str, str] = MappingProxyType(
    {
        "webdataset_float32": "webdataset",
        "webdataset_uint8": "webdataset",
        "spdl": "spdl",
        "litdata": "litdata",
        "mosaic_streaming": "mosaicml-streaming",
        "energon": "megatron-energon",
        "hf_datasets": "datasets",
    }
)
"""Module here -> the package that it needs."""
MOST = 2000
"""Images that a peer's own format is written of."""

Batches = Iterator[tuple[Tensor, Tensor]]
"""Endless: (images (B, 3, S, S), ids (B, L))."""


@dataclass(frozen=True)
class Source:
    """What a peer reads, and what it makes of that."""

    corpus: Corpus
    text: CaptionTokenizer
    size: int
    """Edge of the images, pixels."""
    batch: int
    folder: Path
    """Where the peer may write."""

    @property
    def tars(self) -> list[str]:
        """The shards, ordinary WebDataset tars."""
        return [f"{self.corpus.folder}/{shard.name}" for shard in self.corpus.manifest.shards]

    def records(self) -> Iterator[tuple[bytes, str]]:
        """(encoded image, its first caption) of up to MOST records, from all over the corpus."""
        count = self.corpus.manifest.images
        for row in np.linspace(0, count, min(count, MOST), endpoint=False).astype(int).tolist():
            record = self.corpus.read(row)
            yield bytes(record.image), record.captions[0]

    def ids(self, caption: str) -> Tensor:
        """int64 (L,)."""
        return self.text.encode([caption], ModelConfig.max_text_len)[0][0]

    def square(self, image: Image.Image) -> Tensor:
        """uint8 (3, S, S): resized by Pillow if it must be, and cropped at the centre."""
        size = self.size
        scale = size / min(image.size)
        if scale != 1:
            width, height = (max(size, int(edge * scale)) for edge in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((edge - size) // 2 for edge in image.size)
        image = image.crop((left, top, left + size, top + size)).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def square_of(self, pixels_3HW: Tensor) -> Tensor:
        """The same of uint8 pixels."""
        size = self.size
        height, width = pixels_3HW.shape[1:]
        shorter = min(height, width)
        if shorter != size:
            shape = size * height // shorter, size * width // shorter
            resized = torch.nn.functional.interpolate(pixels_3HW[None], shape, mode="bicubic", antialias=True)
            pixels_3HW, (height, width) = resized[0], shape
        top, left = (height - size) // 2, (width - size) // 2
        return pixels_3HW[:, top : top + size, left : left + size]


Take = Callable[[int], float]
"""Takes as many batches; returns the CPU-seconds that the peer's process used since the take before."""


def open_peers(source: Source, stack: ExitStack) -> dict[str, Take]:
    """Name -> the peers that can be used here, until `stack` closes; a line says of each other one why not."""
    takes = {}
    for name, package in PEERS.items():
        folder = source.folder / name
        folder.mkdir()
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(name, replace(source, folder=folder), theirs, ours)
        )
        process.start()
        theirs.close()
        stack.callback(process.join)
        stack.callback(process.kill)  # SPDL's libraries would print a stack trace for SIGTERM
        try:
            missing = ours.recv()
        except EOFError:
            missing = "its process ended"
        if missing is None:
            takes[name] = _taker(ours)
        else:
            print(f"{name}: not measured: {missing} (pip install 'bridgetower-train[peers]' has {package})")
    return takes


def _taker(peer: Connection) -> Take:
    def take(count: int) -> float:
        peer.send(count)
        return float(peer.recv())

    return take


def _serve(name: str, source: Source, asked: Connection, parents: Connection) -> None:
    parents.close()
    try:
        batches: Batches = importlib.import_module(f"{__name__}.{name}").batches(source)
        check(source, next(batches))
    except Exception as error:  # others' packages raise whatever they like
        return asked.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])
    asked.send(None)
    spent = time.process_time()
    while True:
        try:
            count = asked.recv()
        except EOFError:  # our process ended
            return None
        for _ in itertools.islice(batches, count):
            pass
        # A peer's threads read ahead while others take their turns: that counts for its next one.
        before, spent = spent, time.process_time()
        asked.send(spent - before)


def check(source: Source, batch: tuple[Any, Any]) -> None:
    """ValueError where a batch does not have the shapes of ours."""
    images, ids = batch
    expected = (source.batch, 3, source.size, source.size)
    if tuple(images.shape) != expected or tuple(ids.shape[:1]) != expected[:1]:
        raise ValueError(f"gives batches of {tuple(images.shape)}, not of {expected}")
