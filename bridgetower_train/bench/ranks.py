"""`bridgetower bench ranks`: what engine, collectives and loop cost beyond the bare step, by the number of ranks."""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean, median

import torch

from bridgetower_train.bench.kit import random_batch
from bridgetower_train.config import (
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    EngineConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
    at_least,
)
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import init_ranks, local_rank, shut_down
from bridgetower_train.engines.optim import parameter_groups
from bridgetower_train.errors import ConfigError
from bridgetower_train.tasks.pretraining import Pretraining
from bridgetower_train.training.metrics import Console, LogRecord
from bridgetower_train.training.run import Run, build, fit
from bridgetower_train.watchdog import Watchdog

KINDS = ("bare", "engine", "loop")
"""Forward, backward and AdamW of one process alone; the same in the engine, with its ranks; the same in the training loop."""

Figures = dict[str, tuple[float, float]]
"""Kind -> (seconds, CPU-seconds of the process) per step."""

_start: Barrier


@dataclass(frozen=True)
class BenchRanksConfig:
    """What is timed."""

    ranks: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of ranks, all on this host."""
    batch: int = 16
    """Pairs per rank and step."""
    steps: int = 20
    """Steps of each kind, after ten that do not count; rounded up to a multiple of ten, between which the loop logs."""
    repeats: int = 3
    """Times that all is started anew; medians are reported."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ConfigError("ranks: is empty; give numbers of ranks, as ranks=[1,2]")
        for number in self.ranks:
            at_least("ranks", number, 1)
        for name, least in (("batch", 2), ("steps", 1), ("repeats", 1)):
            at_least(name, getattr(self, name), least)


def run(config: BenchRanksConfig) -> int:
    """Print a line for each number of ranks."""
    device, _ = make_device(config.device)
    print(
        f"device  {device.name} ({device.description}), torch {torch.__version__}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads a rank; engine {config.engine.name}, {config.batch} pairs a rank\n"
        "bare    as many processes at once as there are ranks, each on its own: they share cores as the ranks do\n\n"
        f"{'ranks':5}{'s per step: bare':>18}{'engine':>18}{'loop':>18}{'CPU-s: bare':>15}{'engine':>18}{'loop':>18}"
    )
    with tempfile.TemporaryDirectory() as folder:
        _make_corpus(folder, config.model.image_size)
        for number in config.ranks:
            groups = [_group(replace(config, ranks=[number]), Path(folder)) for _ in range(config.repeats)]
            print(f"{number:5}" + "".join(_columns(groups, what, 18 - 3 * what) for what in (0, 1)), flush=True)
    return 0


def _columns(groups: list[Figures], what: int, width: int) -> str:
    """Medians of seconds (`what` 0) or CPU-seconds (1), and how much more than bare they are."""
    bare, *others = (median(figures[kind][what] for figures in groups) for kind in KINDS)
    return f"{bare:{width}.4f}" + "".join(f"{value:9.4f} {value / bare - 1:+8.1%}" for value in others)


def _make_corpus(root: str, edge: int) -> None:
    command = [sys.executable, "-m", "bridgetower_train", "prep", "shapes", f"out={root}", "records=64", "heldout=1"]
    subprocess.run([*command, f"size={max(edge, 32)}", "workers=1"], check=True, stdout=subprocess.DEVNULL)


def _group(config: BenchRanksConfig, folder: Path) -> Figures:
    """Means over ranks that were started together."""
    (world_size,) = config.ranks
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=folder) as run_dir,
        ProcessPoolExecutor(world_size, context, _meet, (context.Barrier(world_size),)) as pool,
    ):
        figures = list(pool.map(partial(_rank, config, folder, run_dir, port), range(world_size)))
    return {kind: (mean(f[kind][0] for f in figures), mean(f[kind][1] for f in figures)) for kind in KINDS}


def _meet(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _rank(config: BenchRanksConfig, root: Path, run_dir: str, port: int, rank: int) -> Figures:
    """What one rank measures: bare before it joins the others, then engine and loop among them."""
    (world_size,) = config.ranks
    values = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in values.items()})
    train = _train_config(config, world_size, root, run_dir)
    device, _ = make_device(config.device, local_rank())
    host_batch = random_batch(train, config.batch)
    batch = host_batch.to(device.torch_device)
    bare = _time(_bare_step(train, device, batch), config.steps, device)
    ranks = init_ranks(device.backend, train.distributed)
    try:
        with Watchdog(ranks, train.distributed.timeout) as progress, ExitStack() as stack:
            job = build(train, device, ranks, stack)
            totals = job.engine.task.counts(batch) * world_size

            def step() -> None:
                job.engine.forward_backward(batch, totals, last=True)
                job.engine.step()

            engine = _time(step, config.steps, device)
            return {"bare": bare, "engine": engine, "loop": _time_loop(job, host_batch, progress)}
    finally:
        shut_down()


def _train_config(config: BenchRanksConfig, world_size: int, root: Path, run_dir: str) -> TrainConfig:
    tokenizer = str(root / "shapes" / "tokenizer.json")
    return TrainConfig(
        run_dir=run_dir,
        steps=str(10 + -(-config.steps // 10) * 10),
        global_batch=config.batch * world_size,
        tokenizer=tokenizer,
        tensorboard=False,
        model=config.model.with_vocabulary(CaptionTokenizer.load(tokenizer).vocab_size),
        data=DataConfig(root=str(root), corpora={"shapes": 1.0}, lanes=world_size),
        objective=config.objective,
        optim=config.optim,
        engine=config.engine,
        device=config.device,
        checkpoint=CheckpointConfig(every=1 << 40),
    )


def _bare_step(config: TrainConfig, device: Device, batch: Batch) -> Callable[[], None]:
    task = Pretraining(config, device.attention).to(device.torch_device)
    optimizer = device.adamw(parameter_groups(task.model.named_parameters(), config.optim), config.optim)
    module, totals = device.compile(task), task.counts(batch)

    def step() -> None:
        with device.autocast():
            loss = module(batch, totals)[0]
        loss.backward()
        device.mark_step()
        optimizer.step()
        optimizer.zero_grad()
        device.mark_step()

    return step


def _time(step: Callable[[], None], steps: int, device: Device) -> tuple[float, float]:
    """(seconds, CPU-seconds) per step, from when all ranks have come to this point."""
    for _ in range(10):
        step()
    device.synchronize()
    _start.wait()
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    device.synchronize()
    return (time.perf_counter() - began) / steps, (time.process_time() - worked) / steps


class _Clock:
    """A sink that notes when lines come."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, float, float]] = []

    def write(self, record: LogRecord) -> None:
        self.lines.append((record["step"], time.perf_counter(), time.process_time()))

    def close(self) -> None:
        pass


def _time_loop(job: Run, batch: Batch, progress: Watchdog) -> tuple[float, float]:
    """(seconds, CPU-seconds) per step of the loop from its first line of metrics to the last; the batch is there already."""
    clock = _Clock()
    sinks = [*(sink for sink in job.sinks if not isinstance(sink, Console)), clock]
    fit(replace(job, batches=repeat(batch), sinks=sinks), progress)
    (first, began, before), (last, ended, after) = clock.lines[0], clock.lines[-1]
    return (ended - began) / (last - first), (after - before) / (last - first)
