"""`bridgetower bench prep`: the preparation of images, of a folder and of tars, against bare decoding, resizing and encoding."""

import contextlib
import io
import itertools
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from fsspec.core import url_to_fs
from PIL import Image
from torch.nn.functional import interpolate

from bridgetower_train.bench.kit import BenchConfig, Figures, bench, timed
from bridgetower_train.config import at_least
from bridgetower_train.errors import DataError
from data_prep.corpora.shards import TarParts
from data_prep.job.job import JobConfig, PrepConfig, run_job, run_parts
from data_prep.packed.images import PlacedImages
from data_prep.parallel import cores
from data_prep.shapes.synthetic import synthetic_photo
from data_prep.source.image import JPEG_QUALITY
from data_prep.source.local import LocalImages, RowList
from data_prep.source.rows import Images, Outcome, Row

FIGURES = {
    "jpeg_kb": "mean size of an original, 10^3 bytes",
    "bare": "images per CPU-second: decode, resize and encode, nothing else",
    "one": "images per CPU-second of the whole job in one process",
    "several": "images per second and process of the whole job in `workers` processes",
    "tars": "images per CPU-second of `prep shards` in one process, of tars on this disk",
    "stream": "images per CPU-second of the same, of tars that are fetched from `url`",
    "one_of_bare": "one / bare (target: 0.8)",
    "several_of_bare": "several / bare (target: 0.8)",
    "tars_of_bare": "tars / bare (target: 0.8)",
    "stream_of_bare": "stream / bare (target: 0.7)",
}
"""What `measure` returns. Jobs count from when their workers have started."""

_IMAGES = 50
_WARM_UP = 256  # images after which all workers have started
_TARS = 4


@dataclass(frozen=True)
class BenchPrepConfig(BenchConfig):
    """What is timed."""

    images: str | None = None
    """Folder of JPEGs; null: synthetic ones of 640 x 480."""
    records: int = 1500
    """Images per turn; the available ones are repeated."""
    size: int = 294
    """Shorter edge of the prepared images, pixels."""
    workers: int = field(default_factory=cores)
    """Processes of the second job."""
    url: str | None = None
    """fsspec URL of a folder, as s3://bucket/bench, to which tars are written and from which they are fetched; null: none."""

    def __post_init__(self) -> None:
        at_least("records", self.records, 2 * _WARM_UP)
        at_least("workers", self.workers, 1)


def measure(config: BenchPrepConfig) -> Figures:
    """FIGURES. DataError where the folder has no JPEGs."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        paths = sorted(Path(config.images).glob("*.jpg")) if config.images else _synthetic(Path(scratch))
        if not paths:
            raise DataError(f"images={config.images}: there is no .jpg in it; name a folder with some")
        jpegs = [path.read_bytes() for path in paths]
        bare = config.records / timed(lambda: _bare(jpegs, config), time.process_time)
        one, several = (
            _prep(paths, config, workers, Path(scratch, name))
            for name, workers in (("one", 1), ("several", config.workers))
        )
        tars = _write_tars(jpegs, config, Path(scratch))
        rates = {"one": one, "several": several, "tars": _shards(tars, config, Path(scratch, "tars"))}
        if config.url:
            rates["stream"] = _shards(_upload(tars, config.url), config, Path(scratch, "stream"))
    ratios = {f"{name}_of_bare": rate / bare for name, rate in rates.items()}
    return {"jpeg_kb": statistics.mean(map(len, jpegs)) / 1e3, "bare": bare, **rates, **ratios}


def _synthetic(folder: Path) -> list[Path]:
    paths = [folder / f"{number}.jpg" for number in range(_IMAGES)]
    for number, path in enumerate(paths):
        path.write_bytes(synthetic_photo(number, 480))
    return paths


def _bare(jpegs: list[bytes], config: BenchPrepConfig) -> None:
    for jpeg in itertools.islice(itertools.cycle(jpegs), config.records):
        pixels = simplejpeg.decode_jpeg(jpeg)
        height, width = (config.size * edge // min(pixels.shape[:2]) for edge in pixels.shape[:2])
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = interpolate(image, (height, width), mode="bicubic", antialias=True)
        small = Image.fromarray(np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()))
        small.save(io.BytesIO(), "JPEG", quality=JPEG_QUALITY)


class _Timed(Images):
    """Notes when the workers have warmed up."""

    def __init__(self, images: Images, clock: Callable[[], float]) -> None:
        self._images = images
        self.clock = clock
        self.started = 0.0

    def outcomes(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Outcome]]:
        for count, outcome in enumerate(self._images.outcomes(rows)):
            if count == _WARM_UP:
                self.started = self.clock()
            yield outcome


def _prep(paths: list[Path], config: BenchPrepConfig, workers: int, out: Path) -> float:
    """Images per second and process of a whole job: its spool, shards, logs and index included, the start of workers not."""
    rows = [Row(f"{n:06d}", paths[n % len(paths)].name, [f"image {n}"]) for n in range(config.records)]
    local = LocalImages(paths[0].parent, config.size, workers, follow_links=True)
    images = _Timed(local, time.process_time if workers == 1 else time.perf_counter)
    job = JobConfig(out=str(out.parent), name=out.name, size=config.size, workers=workers)
    with _quiet():
        run_job(job, RowList(rows, {}), images, {})
    return (config.records - _WARM_UP) / (images.clock() - images.started) / workers


def _shards(tars: list[str], config: BenchPrepConfig, out: Path) -> float:
    """Images per CPU-second of `prep shards` in one process."""
    images = _Timed(PlacedImages(config.size, 1), time.process_time)
    job = PrepConfig(out=str(out.parent), name=out.name, size=config.size, workers=1)
    with _quiet():
        run_parts(job, TarParts(tars, False, {}, []), images, {}, None, {})
    return (config.records - _WARM_UP) / (images.clock() - images.started)


def _write_tars(jpegs: list[bytes], config: BenchPrepConfig, folder: Path) -> list[str]:
    """Tars as img2dataset writes them, with all records together."""
    paths = [folder / f"{number:05d}.tar" for number in range(_TARS)]
    for tar, path in enumerate(paths):
        with tarfile.open(path, "w") as file:
            for number in range(tar, config.records, _TARS):
                caption = f"image {number}"
                meta = json.dumps({"caption": caption, "url": f"https://example.org/{number}"}).encode()
                for suffix, data in (("jpg", jpegs[number % len(jpegs)]), ("txt", caption.encode()), ("json", meta)):
                    header = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    header.size = len(data)
                    file.addfile(header, io.BytesIO(data))
    return list(map(str, paths))


def _upload(tars: list[str], url: str) -> list[str]:
    fs, folder = url_to_fs(url)
    for tar in tars:
        fs.put_file(tar, f"{folder}/{Path(tar).name}")
    return [f"{url.rstrip('/')}/{Path(tar).name}" for tar in tars]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        yield


run = bench("prep", measure, FIGURES)
