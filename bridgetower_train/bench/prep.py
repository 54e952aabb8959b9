"""`bridgetower bench prep`: the preparation of local images against bare decoding, resizing and encoding."""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.nn.functional import interpolate

from bridgetower_train.bench.data import synthetic_photo
from bridgetower_train.config import at_least
from bridgetower_train.errors import DataError
from data_prep.job.job import JobConfig, run_job
from data_prep.parallel import cores
from data_prep.source.image import JPEG_QUALITY
from data_prep.source.local import LocalImages, RowList
from data_prep.source.rows import Outcome, Row

BARE_TARGET = 0.8
"""What is aimed at: share of the bare rate."""

_MADE_UP = 50
_WARM_UP = 256  # images after which all workers have started


@dataclass(frozen=True)
class BenchPrepConfig:
    """What is timed."""

    images: str | None = None
    """Folder of JPEGs; null makes some of 640 x 480 up."""
    records: int = 1500
    """Images per turn; those there are come again and again."""
    size: int = 294
    """Shorter edge of the prepared images, pixels."""
    workers: int = field(default_factory=cores)
    """Processes of the turn with several."""

    def __post_init__(self) -> None:
        at_least("records", self.records, 2 * _WARM_UP)
        at_least("workers", self.workers, 1)


def run(config: BenchPrepConfig) -> int:
    """Measure and print."""
    figures = bench_prep(config)
    print(
        f"images per second and core, {config.records} images of {figures['kb']:.0f} kB to shorter edge {config.size}"
    )
    print(f"  bare decode, resize, encode {figures['bare']:7.0f}")
    for workers in (1, config.workers):
        share = figures[f"prep_{workers}"] / figures["bare"]
        print(
            f"  prep, {workers:2} at work            {figures[f'prep_{workers}']:7.0f}   {share:.2f}   target {BARE_TARGET}"
        )
    return 0


def bench_prep(config: BenchPrepConfig) -> dict[str, float]:
    """Images per second and core: `bare` and `prep_1` by CPU time, `prep_N` by wall time on N cores; `kb` per image."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        paths = sorted(Path(config.images).glob("*.jpg")) if config.images else _make_up(Path(scratch))
        if not paths:
            raise DataError(f"images={config.images}: holds no .jpg")
        jpegs = [path.read_bytes() for path in paths]
        sizes = [len(jpeg) for jpeg in jpegs]
        figures = {"kb": sum(sizes) / len(sizes) / 1e3, "bare": _bare(jpegs, config)}
        for workers in sorted({1, config.workers}):
            figures[f"prep_{workers}"] = _prep(paths, config, workers, scratch)
    return figures


def _make_up(folder: Path) -> list[Path]:
    paths = [folder / f"{number}.jpg" for number in range(_MADE_UP)]
    for number, path in enumerate(paths):
        path.write_bytes(synthetic_photo(number, 480))
    return paths


def _bare(jpegs: list[bytes], config: BenchPrepConfig) -> float:
    start = time.process_time()
    for number in range(config.records):
        pixels = simplejpeg.decode_jpeg(jpegs[number % len(jpegs)])
        height, width = (config.size * edge // min(pixels.shape[:2]) for edge in pixels.shape[:2])
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = interpolate(image, (height, width), mode="bicubic", antialias=True)
        small = Image.fromarray(np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()))
        small.save(io.BytesIO(), "JPEG", quality=JPEG_QUALITY)
    return config.records / (time.process_time() - start)


class _Timed(LocalImages):
    """Notes when the workers have warmed up."""

    started = 0.0

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        for count, outcome in enumerate(super().outcomes(rows)):
            if count == _WARM_UP:
                self.started = self._now()
            yield outcome

    def _now(self) -> float:
        return time.process_time() if self._workers == 1 else time.perf_counter()

    def stop(self) -> float:
        return self._now() - self.started


def _prep(paths: list[Path], config: BenchPrepConfig, workers: int, scratch: str) -> float:
    """The whole job, with its spool, shards, logs and index; what it takes until the workers have started is left out."""
    rows = [Row(f"{n:06d}", str(paths[n % len(paths)]), [f"image {n}"]) for n in range(config.records)]
    images = _Timed([scratch], config.size, workers)
    job = JobConfig(out=scratch, name=f"workers{workers}", size=config.size, workers=workers)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        run_job(job, RowList(rows, {}), images, {})
    return (config.records - _WARM_UP) / images.stop() / workers
