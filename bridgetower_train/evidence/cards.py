"""All cards of a node together: what they send each other, and a training that is killed and resumed."""

import json
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from bridgetower_train.config import TrainConfig
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import init_ranks, local_rank, shut_down
from bridgetower_train.errors import FileError
from bridgetower_train.evidence.card import engine_for, rates, step, timed
from bridgetower_train.evidence.children import Children, StepError
from bridgetower_train.foreign import read_lines
from bridgetower_train.training.assembly import build
from bridgetower_train.training.history import STARTS
from bridgetower_train.training.metrics import METRICS
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.run import fit
from bridgetower_train.watchdog import Watchdog

EVERY = 4
"""Steps between the checkpoints of the training that is killed."""
FOREVER = 1_000_000
_MEGABYTES = 64
_REPEATS = 5


def collectives(config: TrainConfig) -> dict[str, float]:
    """Sum, gather and scattered sum of known numbers; `gb_per_s`: of a sum over all ranks, bytes of a rank by time."""
    device, _ = make_device(config.device, local_rank())
    ranks = init_ranks(device.backend, config.distributed)
    try:
        world, place = ranks.world_size, device.torch_device
        mine = torch.arange(4.0) + 10 * ranks.rank
        everybody = torch.cat([torch.arange(4.0) + 10 * rank for rank in range(world)])
        total = everybody.view(world, 4).sum(0)

        summed = mine.to(place, copy=True)
        dist.all_reduce(summed)
        gathered = torch.empty(4 * world, device=place)
        dist.all_gather_into_tensor(gathered, mine.to(place))
        scattered = torch.empty(4, device=place)
        dist.reduce_scatter_tensor(scattered, everybody.to(place))
        device.mark_step()
        own = everybody.view(world, 4)[ranks.rank] * world
        for what, found, expected in (
            ("sum", summed, total),
            ("gather", gathered, everybody),
            ("scattered sum", scattered, own),
        ):
            if not torch.equal(found.cpu(), expected):
                raise StepError(
                    f"a {what} over {world} ranks gave {found.cpu().tolist()} instead of {expected.tolist()}"
                )
        return {"gb_per_s": _sum_speed(device)}
    finally:
        shut_down()


def _sum_speed(device: Device) -> float:
    whole = torch.zeros(_MEGABYTES * 250_000, device=device.torch_device)

    def work() -> None:
        dist.all_reduce(whole)
        device.mark_step()

    work()
    device.synchronize()
    began = time.perf_counter()
    for _ in range(_REPEATS):
        work()
    device.synchronize()
    return _REPEATS * whole.nbytes / 1e9 / (time.perf_counter() - began)


def speed_of_all(run: TrainConfig, pairs: int) -> dict[str, float]:
    """As `card.speed` of the longest texts, of a card when all train together."""
    device, _ = make_device(run.device, local_rank())
    ranks = init_ranks(device.backend, run.distributed)
    try:
        engine, length = engine_for(run, device, ranks, pairs), run.text_lengths[-1]
        for _ in range(3):
            step(run, engine, pairs, length)
        return rates(run, device, pairs, length, timed(device, partial(step, run, engine, pairs, length)))
    finally:
        shut_down()


def train(run: TrainConfig) -> None:
    """What `bridgetower train` does with that run, on this rank."""
    device, _ = make_device(run.device_here, local_rank(), run.engine.name)
    ranks = init_ranks(device.backend, run.distributed)
    try:
        with Watchdog(ranks, run.distributed.timeout) as watchdog, ExitStack() as stack:
            fit(build(run, device, ranks, stack), watchdog, Preemption())
    finally:
        shut_down()


def kill_and_resume(run: TrainConfig, ranks: int, limit: float, log: Path) -> tuple[int, int, float]:
    """(steps that were trained twice, the step from which the run resumed, the largest relative difference of their losses).

    All ranks are killed between two checkpoints; the same run then goes on to the step it had reached.
    """
    folder, deadline = Path(run.run_dir), time.monotonic() + limit
    with Children(train, replace(run, steps=str(FOREVER)), log=log, ranks=ranks) as training:
        while not (_saved(folder) and _last_step(folder) >= _saved(folder) + 2):
            if training.ended():
                training.results(1.0)
                raise StepError("the training ended by itself")
            if time.monotonic() > deadline:
                raise StepError(f"no step beyond a checkpoint in {limit:g} s")
            time.sleep(0.01)
        training.kill()
    before = _lines(folder)
    reached = max(before)
    with Children(train, replace(run, steps=str(reached)), log=log, ranks=ranks) as training:
        training.results(deadline - time.monotonic())
    after, resumed = _lines(folder), _resumed_from(folder)
    again = [number for number in range(resumed + 1, reached + 1) if number in before]
    if not again:
        raise StepError(
            f"the training was killed right after its checkpoint of step {resumed}, so nothing was trained twice"
        )
    pairs = [
        (before[number][name], after.get(number, {}).get(name, float("inf")))
        for number in again
        for name in before[number]
    ]
    return len(again), resumed, max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)


def _saved(folder: Path) -> int:
    """Step of the newest whole checkpoint; 0 without one."""
    latest = folder / "checkpoints" / "latest"
    return int(latest.read_text().rpartition("-")[2]) if latest.is_file() else 0


def _lines(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> its losses, of the lines that are whole."""
    found = {}
    try:
        for line in read_lines(folder / METRICS):
            if line.endswith(b"\n"):
                record = json.loads(line)
                found[record["step"]] = {name: value for name, value in record.items() if name.startswith("loss")}
    except (FileNotFoundError, FileError):
        return {}
    return found


def _last_step(folder: Path) -> int:
    return max(_lines(folder), default=0)


def _resumed_from(folder: Path) -> int:
    *_, last = read_lines(folder / STARTS)
    return int(json.loads(last)["step"])
