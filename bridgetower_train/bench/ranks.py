"""`bridgetower bench ranks`: what engine, collectives and loop add to the bare step, by the number of ranks."""

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
from bridgetower_train.training.assembly import build
from bridgetower_train.training.metrics import Console
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.run import fit
from bridgetower_train.training.step import backward
from bridgetower_train.watchdog import Watchdog
from data_prep.shapes.synthetic import synthetic_corpus, synthetic_tokenizer

KINDS = ("bare", "engine", "loop")
"""Forward, backward and AdamW in one process alone; the same in the engine, with its ranks; the same in the training loop."""
ROUND = 10
"""Steps of a kind in a row; the loop logs the last of them."""

FIGURES = {
    "steps": "a training step, by kind and number of ranks",
    "s": "seconds",
    "cpu_s": "CPU-seconds of a rank",
    "over_bare": "what s adds to that of bare, as a share of it (target of loop_1: 0.01)",
    "cpu_over_bare": "the same of cpu_s",
}
"""What `measure` returns: means over the ranks, medians over the rounds. In a round the kinds take turns of ten steps.

Rows of `steps`: `bare_N`, as many processes as there are ranks, which share the cores and nothing else; `engine_N`; `loop_N`,
which contains the engine.
"""

Rounds = npt.NDArray[np.float64]
"""(rounds, KINDS, seconds and CPU-seconds) per step."""


@dataclass(frozen=True)
class BenchRanksConfig(BenchModelConfig):
    """What is timed."""

    ranks: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of ranks, all on this machine."""
    batch: int = 16
    """Pairs per rank and step."""
    steps: int = 20
    """Steps of each kind, after ten that do not count; rounded up to a multiple of ten."""
    repeats: int = 3
    """Times that everything is started again."""
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
            alike = replace(config, ranks=[number])
            rounds = np.concatenate([_group(alike, Path(folder)) for _ in range(config.repeats)])
            taken, over = np.median(rounds, 0), np.median(rounds / rounds[:, :1], 0) - 1
            for place, kind in enumerate(KINDS):
                s, cpu_s = taken[place].tolist()
                steps[f"{kind}_{number}"] = {"s": s, "cpu_s": cpu_s}
                if kind != "bare":
                    over_bare, cpu_over_bare = over[place].tolist()
                    steps[f"{kind}_{number}"] |= {"over_bare": over_bare, "cpu_over_bare": cpu_over_bare}
    return {"steps": steps}


def _group(config: BenchRanksConfig, folder: Path) -> Rounds:
    """Means over ranks that were started together."""
    (world_size,) = config.ranks
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        tempfile.TemporaryDirectory(dir=folder) as run_dir,
        ProcessPoolExecutor(world_size, multiprocessing.get_context("spawn")) as pool,
    ):
        found: Rounds = np.mean(list(pool.map(partial(_rank, config, folder, run_dir, port), range(world_size))), 0)
        return found


def _rank(config: BenchRanksConfig, root: Path, run_dir: str, port: int, rank: int) -> Rounds:
    """The rounds of one rank: in a bare step there is nothing to do for the others."""
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
        with Watchdog(ranks, train.distributed.timeout) as watchdog, ExitStack() as stack:
            job = build(train, device, ranks, stack)
            bare = _bare_step(train, device, batch)

            def engine() -> None:
                backward(job.engine, [batch], job.contrast, lambda number: None)
                job.engine.step()

            rounds: list[list[tuple[float, float]]] = []
            turns = _turns((bare, engine), host_batch, device, ranks, rounds)
            quiet = [sink for sink in job.sinks if not isinstance(sink, Console)]
            fit(replace(job, batches=turns, sinks=quiet), watchdog, Preemption())
            return np.array(rounds[1:]) / ROUND
    finally:
        shut_down()


def _train_config(config: BenchRanksConfig, world_size: int, root: Path, run_dir: str) -> TrainConfig:
    tokenizer = f"{root}/tokenizer.json"
    model = config.model.with_vocabulary(CaptionTokenizer.load(tokenizer).vocab_size)
    return replace(
        as_run(replace(config, model=model)),
        engine=config.engine,
        run_dir=run_dir,
        steps=str((1 + -(-config.steps // ROUND)) * ROUND + 1),
        global_batch=config.batch * world_size,
        tokenizer=tokenizer,
        tensorboard=False,
        data=DataConfig(root=str(root), corpora={"synthetic": 1.0}, lanes=world_size),
        log_every=ROUND,
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


def _turns(
    others: Sequence[Callable[[], None]],
    batch: Batch,
    device: Device,
    ranks: Ranks,
    rounds: list[list[tuple[float, float]]],
) -> Iterator[Batch]:
    """What the loop reads: `batch` for a round of its steps, once each of the `others` has had its own. No batch is waited for.

    Adds to `rounds` the (seconds, CPU-seconds) that each took, from when all ranks had reached its beginning.
    """

    def begin() -> tuple[float, float]:
        device.synchronize()
        ranks.barrier()
        return time.perf_counter(), time.process_time()

    def since(began: tuple[float, float]) -> tuple[float, float]:
        device.synchronize()
        return time.perf_counter() - began[0], time.process_time() - began[1]

    while True:
        taken = []
        for step in others:
            began = begin()
            for _ in range(ROUND):
                step()
            taken.append(since(began))
        began = begin()
        for _ in range(ROUND):
            yield batch
        rounds.append([*taken, since(began)])


run = bench("ranks", measure, FIGURES)
