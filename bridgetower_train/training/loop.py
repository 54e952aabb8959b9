"""The training loop."""

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from bridgetower_train import random
from bridgetower_train.config import TrainConfig
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.dataset import PairDataset
from bridgetower_train.devices import Device
from bridgetower_train.distributed import Flag, Ranks
from bridgetower_train.engines import Engine
from bridgetower_train.errors import UserError
from bridgetower_train.evaluation.validation import Validation
from bridgetower_train.training.checkpoint import Checkpoints
from bridgetower_train.training.guards import NonFiniteGuard, check_bad_records
from bridgetower_train.training.metrics import BadSamples, Console, LogRecord, Sink, StepTimer, to_host
from bridgetower_train.training.optim import Schedule
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.profiling import Profile
from bridgetower_train.training.recompiles import RecompileGuard
from bridgetower_train.versions import versions
from bridgetower_train.watchdog import Watchdog


@dataclass
class Run:
    """Everything that a run is made of, ready to go on from `start_step`."""

    config: TrainConfig
    device: Device
    ranks: Ranks
    engine: Engine
    dataset: PairDataset
    batches: Iterator[Batch]
    accumulation: int
    schedule: Schedule
    checkpoints: Checkpoints
    validation: Validation | None
    guard: NonFiniteGuard
    recompiles: RecompileGuard
    profile: Profile
    bad_samples: BadSamples
    console: Console
    sinks: list[Sink]
    identity: LogRecord
    start_step: int
    total_steps: int
    flops_per_sample: float

    def write(self, record: LogRecord) -> None:
        """Hand a record to every sink (rank 0 alone has any)."""
        for sink in self.sinks:
            sink.write({**record, "time": time.time()})


def fit(run: Run, progress: Watchdog) -> int:
    """Train from `start_step` to `total_steps`, telling `progress` where it is.

    Returns the exit code: not 0 where a preemption asks for one.
    """
    preemption, stop = Preemption(), Flag(run.ranks)
    watch = StepTimer()
    run.engine.preallocate()  # now that the loader's workers are there: pages taken before would be shared with those, and copied
    run.device.mark_step()  # what was recorded so far would make the first step's graph another than the second's
    for step in range(run.start_step + 1, run.total_steps + 1):
        progress.at(step, "reading its batch")
        began = time.perf_counter()
        batches = [next(run.batches) for _ in range(run.accumulation)]
        watch.waited(time.perf_counter() - began)

        progress.at(step, "training")
        with run.profile.step(step):
            metrics = train_step(run, step, batches)
        run.recompiles.check(step, [batch.input_ids.shape[1] for batch in batches])

        stopping = stop.agree(preemption.requested or run.checkpoints.failed)
        run.console.advance()
        if step % run.config.log_every == 0 or step == run.total_steps:
            log(run, step, metrics, watch)
        if run.validation and (step % run.config.validation.every == 0 or step == run.total_steps):
            progress.at(step, "validating")
            with run.engine.whole() as task:
                run.write({"step": step, **run.validation.run(task)})
            run.recompiles.forget()
            watch.restart()
        if step % run.config.checkpoint.every == 0 or step == run.total_steps or stopping:
            progress.at(step, "saving")
            save(run, step)
            watch.restart()
        if stopping and step < run.total_steps:
            run.checkpoints.finish()
            run.console.log(f"stopped by a signal after step {step}; the same command goes on from there")
            return preemption.exit_code
    run.checkpoints.finish()
    preemption.close()
    return 0


def train_step(run: Run, step: int, batches: list[Batch]) -> dict[str, Tensor]:
    """One optimizer step over this rank's micro-batches, nothing of which waits for the device."""
    on_device = []
    for batch in batches:
        run.bad_samples.add(batch.bad)
        on_device.append(batch.to(run.device.torch_device))
    totals = torch.stack([run.engine.task.counts(batch) for batch in on_device]).sum(0)
    if run.ranks.world_size > 1:
        dist.all_reduce(totals)

    metrics: dict[str, Tensor] = {}
    for number, batch in enumerate(on_device):
        run.device.seed(int(random.bits(run.config.seed, "step", step, number, run.ranks.rank)))
        part = run.engine.forward_backward(batch, totals, last=number == len(on_device) - 1)
        metrics = {name: metrics[name] + value for name, value in part.items()} if metrics else part
    metrics |= run.engine.step(run.schedule.factor(step - 1))
    run.guard.record(metrics.pop("skipped"))
    run.device.mark_step()
    return metrics


def log(run: Run, step: int, metrics: dict[str, Tensor], watch: StepTimer) -> None:
    """Bring the figures of this step to the host, write them, and stop the run where a guard says so."""
    figures = to_host(metrics, run.ranks)
    run.recompiles.logged()
    step_s, data_wait = watch.span()
    watch.restart()
    samples_per_s = run.config.global_batch / step_s
    peak = run.device.peak_flops
    report_bad_samples(run, step)
    run.write(
        {
            "step": step,
            "position": step * run.config.global_batch,
            "epoch": step * run.config.global_batch / run.dataset.order.epoch_samples,
            **figures,
            "lr": run.config.optim.lr * run.schedule.factor(step - 1),
            "skipped": run.guard.total,
            "bad_samples": run.bad_samples.count,
            "samples_per_s": samples_per_s,
            "step_s": step_s,
            "data_wait": data_wait,
            "mfu": peak and samples_per_s * run.flops_per_sample / (peak * run.ranks.world_size),
            "memory_gb": run.device.memory_gb(),
            **({"recompiles": run.recompiles.count} if run.device.compiles else {}),
        }
    )
    seen, shards = step * run.config.global_batch, run.bad_samples.shards
    check_bad_records(run.bad_samples.count, seen, run.config.data.max_bad_fraction, shards)
    first = run.guard.streak()
    if first is not None:
        positions = range((first - 1) * run.config.global_batch, first * run.config.global_batch)
        records = [run.dataset.describe(p) for p in positions[:8]]
        named = ", ".join(f"{r['corpus']}/{r['shard']}:{r['key']}" for r in records)
        raise UserError(
            f"the loss or the gradient was not finite in {run.config.guards.max_skipped} updates in a row, from step {first} on "
            f"(guards.max_skipped); its batch began with {named}. Lower optim.lr, set optim.clip_norm, or look at these records "
            f"with `bridgetower view step={first - 1}`"
        )


def report_bad_samples(run: Run, step: int) -> None:
    """List the records that had to be replaced since the last call, and name the first of them on the console."""
    met = run.bad_samples.flush(step)
    if met:
        named = "; ".join(f"{r.corpus}/{r.shard}:{r.key} ({r.reason})" for r in met[:3])
        run.console.log(f"replaced {len(met)} records that could not be used: {named}{'; ...' if met[3:] else ''}")


def save(run: Run, step: int) -> None:
    """Start to write a checkpoint from which the run goes on bit for bit. Raises where the one before could not be written."""
    report_bad_samples(run, step)
    state = {
        "step": step,
        "position": step * run.config.global_batch,
        "identity": run.identity,
        "skipped": run.guard.total,
        "bad_samples": run.bad_samples.count,
        "device": run.device.description,
        "world_size": run.ranks.world_size,
        "host": platform.node(),
        "versions": versions(),
    }
    run.checkpoints.save(run.engine, state)
