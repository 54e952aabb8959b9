"""`bridgetower bench fetch`: fetching from a hostile server on this machine, against the bare work on its images."""

import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bridgetower_train.bench.data import synthetic_photo
from bridgetower_train.bench.fault_server import kinds, serve
from bridgetower_train.config import at_least
from data_prep.fetch.config import FetchConfig
from data_prep.fetch.images import WebImages
from data_prep.parallel import cores
from data_prep.source.image import prepare_jpeg
from data_prep.source.rows import OK, Row

GOOD = ("ok",) * 7 + ("late", "redirect", "gzip")
"""Half of the mixed list: what ends well, late, elsewhere or packed."""
BAD = ("drip", "reset", "to_refused_port", "to_file", "longer", "five_gigabytes", "html", "404", "cut", "noai")
"""The other half, 1 in 20 each."""
MIXED_TARGET, IMG2DATASET_TARGET = 1.3, 1.5
"""What is aimed at: times the time of the good ones alone, at most; times img2dataset's rate."""

_IMAGES = 100


@dataclass(frozen=True)
class BenchFetchConfig:
    """What is timed."""

    urls: int = 5000
    """URLs of the mixed list, half of them bad."""
    hosts: int = 100
    """Addresses of this machine at which the server listens."""
    size: int = 294
    """Shorter edge of the prepared images, pixels; the originals have 640 x 480."""
    workers: int = field(default_factory=cores)
    """Processes that decode, resize and encode."""
    in_flight: int = 1000
    """`fetch.in_flight`: URLs at once, many more than drips come within a deadline."""
    deadline: float = 2.0
    """`fetch.deadline`, seconds: so long the last drip of the list takes, however fast the others are."""
    memory_mb: int = 1024
    """`fetch.memory_mb`: how far fetching may be ahead of decoding."""
    img2dataset: str | None = None
    """The program img2dataset, installed elsewhere, to run on as many good images, side by side; null: not."""

    def __post_init__(self) -> None:
        at_least("urls", self.urls, 20)
        at_least("hosts", self.hosts, 1)


def run(config: BenchFetchConfig) -> int:
    """Measure and print; exit code 1 where a row ended in a wrong state."""
    torch.set_num_threads(1)
    images = [synthetic_photo(number, 480) for number in range(_IMAGES)]
    bare = bare_rate(images, config.size)
    print(f"bare decode, resize, encode {bare:7.0f} images per second of one core", flush=True)
    with serve(images, config.hosts) as hosts:
        names = [GOOD[i // 2 % 10] if i % 2 else BAD[i // 2 % 10] for i in range(config.urls)]
        dice = random.Random(0)  # else the drips meet at a few hosts, and wait for each other
        mixed = [f"{dice.choice(hosts)}/{name}/{i}" for i, name in enumerate(names)]
        good = [url for url in mixed if url.split("/")[3] in GOOD]
        timed(good[:200], config)  # what is only slow once
        alone, together = timed(good, config), timed(mixed, config)
        for name, figures in (("good ones alone", alone), ("all together", together)):
            print(
                f"{name:27} {figures['seconds']:7.1f} s, {figures['ok'] / figures['seconds']:.0f} images/s; "
                f"{figures['cpu']:.1f} s of CPU without the server, {figures['ok'] / figures['cpu'] / bare:.2f} of bare; "
                f"at most {figures['mb']:.0f} MB, and {figures['worker_mb']:.0f} in each of {config.workers} processes"
            )
        print(
            f"together to alone           {together['seconds'] / alone['seconds']:7.2f}   target below {MIXED_TARGET}"
        )
        for line in together["wrong"][:20]:
            print(f"wrong state: {line}")
        if config.img2dataset:
            side_by_side(config, [f"{dice.choice(hosts)}/ok/{i}" for i in range(config.urls)])
    print(f"rows in a wrong state       {len(together['wrong']):7} of {config.urls}")
    return int(bool(together["wrong"]))


def bare_rate(images: list[bytes], size: int) -> float:
    """Images per CPU-second that one core prepares from memory."""
    for image in images[:10]:
        prepare_jpeg(image, size)
    start = time.process_time()
    for image in images * 3:
        prepare_jpeg(image, size)
    return 3 * len(images) / (time.process_time() - start)


def timed(urls: list[str], config: BenchFetchConfig) -> dict[str, Any]:
    """Fetch `urls`: seconds, seconds of CPU, images, memory in megabytes, and rows in a wrong state."""
    fetch = FetchConfig(
        in_flight=config.in_flight, deadline=config.deadline, memory_mb=config.memory_mb, allow_loopback=True
    )
    rows = ((number, Row(str(number), url, [])) for number, url in enumerate(urls))
    known, states, wrong, most, most_worker = kinds(), Counter[str](), [], 0.0, 0.0
    start, cpu = time.perf_counter(), time.process_time()
    with closing(WebImages(config.size, config.workers, fetch).outcomes(rows)) as outcomes:  # type: ignore[type-var]
        for number, outcome in outcomes:
            states[outcome.state] += 1
            kind = known[urls[number].split("/")[3]]
            if outcome.state not in {kind.state, kind.or_state}:
                wrong.append(f"{urls[number]}: {outcome.state} ({outcome.detail})")
            if states.total() % 100 == 0 or states.total() == len(urls):
                workers = [child.pid for child in multiprocessing.active_children() if child.name != "server"]
                most = max(most, _resident_mb(os.getpid()))
                most_worker = max([most_worker, *map(_resident_mb, workers)])
                worker_cpu = sum(map(_cpu_seconds, workers))
        seconds = time.perf_counter() - start
    assert states.total() == len(urls)
    return {
        "seconds": seconds,
        "cpu": time.process_time() - cpu + worker_cpu,
        "ok": states[OK],
        "mb": most,
        "worker_mb": most_worker,
        "wrong": wrong,
    }


def side_by_side(config: BenchFetchConfig, urls: list[str]) -> None:
    """The whole way from a list to shards on the disk, by `prep cc12m` and by img2dataset, each in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch, "ours.tsv"), Path(scratch, "theirs.txt")
        ours.write_text("".join(f"{url}\ta caption\n" for url in urls))
        theirs.write_text("".join(f"{url}\n" for url in urls))
        keys = f"annotations={ours} out={scratch} size={config.size} workers={config.workers} fetch.allow_loopback=true"
        options = (
            f"--url_list {theirs} --input_format txt --output_format webdataset --output_folder {scratch}/theirs "
            f"--image_size {config.size} --resize_mode keep_ratio --encode_quality 95 --processes_count {config.workers} "
            "--thread_count 128 --number_sample_per_shard 1000"
        )
        rates = {}
        for name, command in {
            "prep cc12m": [sys.executable, "-m", "bridgetower_train", "prep", "cc12m", *keys.split()],
            "img2dataset": [str(config.img2dataset), *options.split()],
        }.items():
            start = time.perf_counter()
            output = subprocess.run(command, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            images = sum(
                _images(tar) for tar in Path(scratch, {"prep cc12m": "cc12m"}.get(name, "theirs")).glob("*.tar")
            )
            if not images:
                print(output.stdout + output.stderr)
            rates[name] = images / seconds
            print(f"{name:27} {seconds:7.1f} s, {images} images, {rates[name]:.0f}/s")
        print(
            f"times img2dataset           {rates['prep cc12m'] / rates['img2dataset']:7.2f}   target {IMG2DATASET_TARGET}"
        )


def _images(tar: Path) -> int:
    listing = subprocess.run(["tar", "-tf", str(tar)], capture_output=True, text=True, check=True).stdout
    return listing.count(".jpg")


def _resident_mb(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_seconds(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
