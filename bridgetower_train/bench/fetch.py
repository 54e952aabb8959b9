"""`bridgetower bench fetch`: fetching from a fault-injection server on this machine, against the bare work on its images."""

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

import torch

from bridgetower_train.bench.fault_server import kinds, serve
from bridgetower_train.bench.kit import BenchConfig, Figures, bench, resident_mb, timed
from bridgetower_train.config import at_least
from bridgetower_train.errors import UserError
from data_prep.fetch.config import FetchConfig
from data_prep.fetch.images import WebImages
from data_prep.parallel import cores
from data_prep.shapes.synthetic import synthetic_photo
from data_prep.source.image import prepare_jpeg
from data_prep.source.rows import OK, Row

GOOD = ("ok",) * 7 + ("late", "redirect", "gzip")
"""Half of the mixed list: what succeeds, late, elsewhere or compressed."""
BAD = ("drip", "reset", "to_refused_port", "to_file", "longer", "five_gigabytes", "html", "404", "cut", "noai")
"""The other half, 1 in 20 each."""

FIGURES = {
    "bare": "images per CPU-second: decode, resize and encode from memory, nothing else",
    "lists": "the good URLs of the mixed list alone, and the whole mixed list",
    "s": "seconds",
    "images_per_s": "images per second",
    "cpu_s": "CPU-seconds, the server's not counted",
    "of_bare": "images per CPU-second / bare",
    "mb": "peak memory of the process, 10^6 bytes",
    "worker_mb": "peak memory of a process that decodes, 10^6 bytes",
    "mixed_of_good": "seconds of the mixed list / seconds of its good URLs alone (target: below 1.3)",
    "wrong_states": "rows that ended in a wrong state (target: 0)",
    "ours": "images per second of prep cc12m on as many good URLs, start-up included",
    "img2dataset": "images per second of img2dataset on the same URLs",
    "of_img2dataset": "ours / img2dataset (target: 1.5)",
}
"""What `measure` returns; the last three with `img2dataset=PROGRAM`."""

_IMAGES = 100


@dataclass(frozen=True)
class BenchFetchConfig(BenchConfig):
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
    """`fetch.in_flight`: URLs at once, many more than the drips that start within a deadline."""
    deadline: float = 2.0
    """`fetch.deadline`, seconds: the last drip of the list takes this long, however fast the others are."""
    memory_mb: int = 1024
    """`fetch.memory_mb`: how far fetching may be ahead of decoding."""
    img2dataset: str | None = None
    """The program img2dataset, installed elsewhere, to run on as many good images; null: it is not run."""

    def __post_init__(self) -> None:
        at_least("urls", self.urls, 20)
        at_least("hosts", self.hosts, 1)


def measure(config: BenchFetchConfig) -> Figures:
    """FIGURES; rows in a wrong state are printed."""
    torch.set_num_threads(1)
    images = [synthetic_photo(number, 480) for number in range(_IMAGES)]
    bare = bare_rate(images, config.size)
    with serve(images, config.hosts) as hosts:
        names = [GOOD[i // 2 % 10] if i % 2 else BAD[i // 2 % 10] for i in range(config.urls)]
        rng = random.Random(0)  # otherwise the drips meet at a few hosts and wait for each other
        mixed = [f"{rng.choice(hosts)}/{name}/{i}" for i, name in enumerate(names)]
        good = [url for url in mixed if url.split("/")[3] in GOOD]
        fetch(good[:200], config)  # warms up
        (alone, wrong_alone), (whole, wrong_whole) = fetch(good, config), fetch(mixed, config)
        for line in (wrong := wrong_alone + wrong_whole)[:20]:
            print(f"wrong state: {line}")
        peer = _img2dataset(config, [f"{rng.choice(hosts)}/ok/{i}" for i in range(config.urls)])
    lists = {"good": alone, "mixed": whole}
    for row in lists.values():
        row["of_bare"] = row["images_per_s"] * row["s"] / row["cpu_s"] / bare
    ratio = whole["s"] / alone["s"]
    return {"bare": bare, "lists": lists, "mixed_of_good": ratio, "wrong_states": len(wrong), **peer}


def bare_rate(images: list[bytes], size: int) -> float:
    """Images per CPU-second that one core prepares from memory."""

    def prepare(count: int) -> None:
        for number in range(count):
            prepare_jpeg(images[number % len(images)], size)

    prepare(10)
    return 3 * len(images) / timed(lambda: prepare(3 * len(images)), time.process_time)


def fetch(urls: list[str], config: BenchFetchConfig) -> tuple[dict[str, float], list[str]]:
    """Fetch `urls`: (a row of the table `lists`, without `of_bare`; what ended in a wrong state)."""
    settings = FetchConfig(
        in_flight=config.in_flight, deadline=config.deadline, memory_mb=config.memory_mb, allow_loopback=True
    )
    rows = ((number, Row(str(number), url, [])) for number, url in enumerate(urls))
    known, states, wrong, peak, worker_peak, worker_cpu = kinds(), Counter[str](), [], 0.0, 0.0, 0.0
    start, cpu = time.perf_counter(), time.process_time()
    with closing(WebImages(config.size, config.workers, settings).outcomes(rows)) as outcomes:  # type: ignore[type-var]
        for number, outcome in outcomes:
            states[outcome.state] += 1
            kind = known[urls[number].split("/")[3]]
            if outcome.state not in {kind.state, kind.or_state}:
                wrong.append(f"{urls[number]}: {outcome.state} ({outcome.detail})")
            if states.total() % 100 == 0 or states.total() == len(urls):
                workers = [child.pid for child in multiprocessing.active_children() if child.name != "server"]
                peak = max(peak, resident_mb())
                worker_peak = max([worker_peak, *map(resident_mb, workers)])
                worker_cpu = sum(map(_cpu_seconds, workers))
        seconds = time.perf_counter() - start
    assert states.total() == len(urls)
    return {
        "s": seconds,
        "images_per_s": states[OK] / seconds,
        "cpu_s": time.process_time() - cpu + worker_cpu,
        "mb": peak,
        "worker_mb": worker_peak,
    }, wrong


def _img2dataset(config: BenchFetchConfig, urls: list[str]) -> Figures:
    """From a list to shards on disk, by `prep cc12m` and by img2dataset, each in a process of its own."""
    if not config.img2dataset:
        return {}
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
        own = _rate([sys.executable, "-m", "bridgetower_train", "prep", "cc12m", *keys.split()], Path(scratch, "cc12m"))
        peer = _rate([config.img2dataset, *options.split()], Path(scratch, "theirs"))
    return {"ours": own, "img2dataset": peer, "of_img2dataset": own / peer}


def _rate(command: list[str], folder: Path) -> float:
    """Images per second that `command` writes into the tars of `folder`."""
    start = time.perf_counter()
    output = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    listings = (subprocess.check_output(["tar", "-tf", tar], text=True) for tar in folder.glob("*.tar"))
    images = sum(listing.count(".jpg") for listing in listings)
    if not images:
        raise UserError(f"{command[0]} wrote no image; its output:\n{output.stdout}{output.stderr}")
    return images / seconds


def _cpu_seconds(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


run = bench("fetch", measure, FIGURES, failures="wrong_states")
