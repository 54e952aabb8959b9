"""`bridgetower bench ranks`: what engine, collectives and loop add to the bare step, by the number of ranks."""

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import mean, median

from bridgetower_train.bench.kit import (
    BenchModelConfig,
    Figures,
    as_run,
    bench,
    forward_backward,
    make_task,
    random_batch,
)
from bridgetower_train.config import CheckpointConfig, DataConfig, EngineConfig, TrainConfig, at_least
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import Ranks, init_ranks, local_rank, shut_down
from bridgetower_train.engines.optim import parameter_groups
from bridgetower_train.errors import ConfigError
from bridgetower_train.training.assembly import Run, build
from bridgetower_train.training.metrics import Console, LogRecord
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.run import fit
from bridgetower_train.training.step import backward
from bridgetower_train.watchdog import Watchdog
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_tokenizer

KINDS = ("bare", "engine", "loop")
"""Forward, backward and AdamW in one process alone; the same in the engine, with its ranks; the same in the training loop."""

FIGURES = {
    "steps": "a training step, by kind and number of ranks",
    "s": "seconds",
    "cpu_s": "CPU-seconds of a rank",
    "over_bare": "what s adds to that of bare, as a share of it (target of loop_1: 0.01)",
    "cpu_over_bare": "the same of cpu_s",
}
"""What `measure` returns: medians over the repeats of means over the ranks.

Rows of `steps`: `bare_N`, as many processes as there are ranks, which share the cores and nothing else; `engine_N`; `loop_N`,
which contains the engine.
"""

Times = dict[str, tuple[float, float]]
"""Kind -> (seconds, CPU-seconds of the process) per step."""


@dataclass(frozen=True)
class BenchRanksConfig(BenchModelConfig):
    """What is timed."""

    ranks: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of ranks, all on this machine."""
    batch: int = 16
    """Pairs per rank and step."""
    steps: int = 20
    """Steps of each kind, after ten that do not count; rounded up to a multiple of ten, since the loop logs every tenth."""
    repeats: int = 3
    """Times that everything is started again; medians are reported."""
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ConfigError("ranks: is empty; give numbers of ranks, such as ranks=[1,2]")
        for number in self.ranks:
            at_least("ranks", number, 1)
        for name, least in (("batch", 2), ("steps", 1), ("repeats", 1)):
            at_least(name, getattr(self, name), least)


def measure(config: BenchRanksConfig) -> Figures:
    """FIGURES."""
    steps: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        synthetic_corpus(Path(folder, "synthetic"), config.model.image_size, images=8, records=64)
        synthetic_tokenizer().save(f"{folder}/tokenizer.json")
        for number in config.ranks:
            groups = [_group(replace(config, ranks=[number]), Path(folder)) for _ in range(config.repeats)]
            bare_s, bare_cpu_s = (median(group["bare"][what] for group in groups) for what in (0, 1))
            for kind in KINDS:
                s, cpu_s = (median(group[kind][what] for group in groups) for what in (0, 1))
                steps[f"{kind}_{number}"] = {"s": s, "cpu_s": cpu_s}
                if kind != "bare":
                    steps[f"{kind}_{number}"] |= {"over_bare": s / bare_s - 1, "cpu_over_bare": cpu_s / bare_cpu_s - 1}
    return {"steps": steps}


def _group(config: BenchRanksConfig, folder: Path) -> Times:
    """Means over ranks that were started together."""
    (world_size,) = config.ranks
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        tempfile.TemporaryDirectory(dir=folder) as run_dir,
        ProcessPoolExecutor(world_size, multiprocessing.get_context("spawn")) as pool,
    ):
        times = list(pool.map(partial(_rank, config, folder, run_dir, port), range(world_size)))
    return {kind: (mean(t[kind][0] for t in times), mean(t[kind][1] for t in times)) for kind in KINDS}


def _rank(config: BenchRanksConfig, root: Path, run_dir: str, port: int, rank: int) -> Times:
    """The times of one rank: bare, with nothing to do for the others, then engine and loop among them."""
    (world_size,) = config.ranks
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train = _train_config(config, world_size, root, run_dir)
    device, _ = make_device(config.device, local_rank())
    host_batch = random_batch(train, config.batch)
    batch = host_batch.to(device.torch_device)
    ranks = init_ranks(device.backend, train.distributed)
    try:
        bare = _time(_bare_step(train, device, batch), config.steps, device, ranks)
        with Watchdog(ranks, train.distributed.timeout) as watchdog, ExitStack() as stack:
            job = build(train, device, ranks, stack)

            def step() -> None:
                backward(job.engine, [batch], job.contrast, lambda number: None)
                job.engine.step()

            engine = _time(step, config.steps, device, ranks)
            return {"bare": bare, "engine": engine, "loop": _time_loop(job, host_batch, watchdog)}
    finally:
        shut_down()


def _train_config(config: BenchRanksConfig, world_size: int, root: Path, run_dir: str) -> TrainConfig:
    tokenizer = f"{root}/tokenizer.json"
    model = config.model.with_vocabulary(CaptionTokenizer.load(tokenizer).vocab_size)
    return replace(
        as_run(replace(config, model=model)),
        engine=config.engine,
        run_dir=run_dir,
        steps=str(10 + -(-config.steps // 10) * 10),
        global_batch=config.batch * world_size,
        tokenizer=tokenizer,
        tensorboard=False,
        data=DataConfig(root=str(root), corpora={"synthetic": 1.0}, lanes=world_size),
        checkpoint=CheckpointConfig(every="100%"),
    )


def _bare_step(config: TrainConfig, device: Device, batch: Batch) -> Callable[[], None]:
    task = make_task(config, device)
    optimizer = device.adamw(parameter_groups(task.model.named_parameters(), config.optim), config.optim)
    totals = task.counts(batch)

    def step() -> None:
        forward_backward(lambda: task.losses(batch, totals)[0], device)
        optimizer.step()
        optimizer.zero_grad()
        device.mark_step()

    return step


def _time(step: Callable[[], None], steps: int, device: Device, ranks: Ranks) -> tuple[float, float]:
    """(seconds, CPU-seconds) per step, from when all ranks have reached this point."""
    for _ in range(10):
        step()
    device.synchronize()
    ranks.barrier()
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    device.synchronize()
    return (time.perf_counter() - began) / steps, (time.process_time() - worked) / steps


class _Clock:
    """A sink that notes when each step is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, float, float]] = []

    def write(self, record: LogRecord) -> None:
        self.lines.append((record["step"], time.perf_counter(), time.process_time()))

    def close(self, failed: bool) -> None:
        pass


def _time_loop(job: Run, batch: Batch, watchdog: Watchdog) -> tuple[float, float]:
    """(seconds, CPU-seconds) per step of the loop, from its first logged step to the last; no batch is waited for."""
    clock = _Clock()
    sinks = [*(sink for sink in job.sinks if not isinstance(sink, Console)), clock]
    fit(replace(job, batches=repeat(batch), sinks=sinks), watchdog, Preemption())
    (first, began, before), (last, ended, after) = clock.lines[0], clock.lines[-1]
    return (ended - began) / (last - first), (after - before) / (last - first)


run = bench("ranks", measure, FIGURES)
