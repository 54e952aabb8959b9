"""A run from top to bottom: assembly, the loop, the step, and what is logged and saved.

The other two files of a run are the engine, which has the update, and the task, which has the losses.
"""

import dataclasses
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridgetower_train import random
from bridgetower_train.config import ProfileConfig, RunLength, TrainConfig, one_of
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.dataset import PairDataset, make_loader, open_data
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.display import print_line
from bridgetower_train.distributed import Flag, Ranks, run_dir_lock
from bridgetower_train.engines import ENGINES, Engine
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.graphs import Graphs, planned_graphs
from bridgetower_train.engines.optim import Schedule, set_lr
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.tasks import Contrast, contrast, step_flops, task_class
from bridgetower_train.training.best import BestSoFar
from bridgetower_train.training.checkpoints import Checkpoints, fingerprint
from bridgetower_train.training.guards import NonFiniteGuard, check_bad_records
from bridgetower_train.training.history import Changed, begin, resumed
from bridgetower_train.training.metrics import (
    BAD_SAMPLES,
    METRICS,
    BadSamples,
    Console,
    JsonLines,
    LogRecord,
    Sink,
    StepTimer,
    keep_lines_until,
    missing_lines,
    to_host,
)
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.profiling import Profile
from bridgetower_train.training.recompiles import RecompileGuard
from bridgetower_train.training.step import backward
from bridgetower_train.training.tracking import open_sinks
from bridgetower_train.training.validation import Validation, check_validation
from bridgetower_train.training.warm_up import warm_up
from bridgetower_train.versions import versions
from bridgetower_train.watchdog import READING, Watchdog
from bridgetower_train.weights.checkpoint import step_folders, step_of
from bridgetower_train.weights.initial import Start, open_tokenizer, start_weights

FROZEN_KEYS = (
    "seed", "global_batch", "task", "model.", "objective.",
    "data.corpora", "data.captions", "data.augment", "data.square", "data.lanes", "data.shuffle",
    "optim.freeze",
)  # fmt: skip
"""Keys that must not change on resume: they determine the weights and the order of data."""


@dataclass
class Run:
    """All parts of a run, ready to continue from `start_step`."""

    config: TrainConfig
    device: Device
    ranks: Ranks
    engine: Engine
    dataset: PairDataset
    batches: Iterator[Batch]
    accumulation: int
    contrast: Contrast
    graphs: Graphs
    schedule: Schedule
    checkpoints: Checkpoints
    save_every: int
    """Steps."""
    validation: Validation | None
    validate_every: int
    """Steps; 0 without validation."""
    best: BestSoFar
    guard: NonFiniteGuard
    recompiles: RecompileGuard
    profile: Profile
    bad_samples: BadSamples
    logged: int
    """Lines of metrics so far."""
    console: Console
    sinks: list[Sink]
    fingerprint: LogRecord
    start_step: int
    total_steps: int
    flops_per_sample: float

    def write(self, record: LogRecord) -> None:
        """Write a record to every sink (only rank 0 has any)."""
        timed = {**record, "time": time.time()}
        self.logged += 1
        for sink in self.sinks:
            sink.write(timed)


def build(config: TrainConfig, device: Device, ranks: Ranks, stack: ExitStack) -> Run:
    """Everything that `fit` needs, loaded from the newest checkpoint if there is one.

    After the configuration has been checked, the run folder is created, and locked until `stack` closes.
    """
    micro_batch, accumulation = config.rank_batch(ranks.world_size)
    check_validation(config)
    config, tokenizer, dataset = read_data(config, ranks)
    run_dir = Path(config.run_dir)
    length = RunLength.of(config.steps, config.global_batch, dataset.order.epoch_samples)
    reached: int = ranks.gather_objects(max(map(step_of, step_folders(run_dir)), default=0))[0]
    left = reached < length.steps
    engine = build_engine(config, device, ranks, accumulation, None if reached else tokenizer, compiles=left)
    validation = Validation(config, tokenizer, device, ranks) if config.validation.wanted else None
    lock = stack.enter_context(run_dir_lock(run_dir, ranks))
    fixed = fingerprint(config, FROZEN_KEYS) | {"tokenizer": tokenizer.digest, "order": dataset.order.digest}
    if task_class(config).decided_by_micro_batch(config):
        fixed["micro_batch"] = micro_batch
    checkpoints = Checkpoints(
        run_dir, config.checkpoint, ranks, print_line if ranks.is_main else lambda text: None, lock
    )
    stack.callback(checkpoints.close)
    older = fingerprint(TrainConfig(), FROZEN_KEYS) | {"micro_batch": micro_batch}
    changed: Changed = {}
    if reached:
        config, changed = ranks.on_main(lambda: resumed(config, run_dir))
    state = checkpoints.load(engine, fixed, older)
    state = state or {"step": 0, "skipped": 0, "streak": 0, "bad_samples": 0, "metrics_lines": 0, "best": None}
    start = state["step"]

    total_steps, warmup = length.steps, length.in_steps("optim.warmup", config.optim.warmup)
    console = Console(start, total_steps, quiet=not ranks.is_main)
    best = BestSoFar(config, state["best"], console.log)
    left = start < total_steps and not best.exhausted
    hosts = ranks.gather_objects(platform.node())
    logged = 0  # in a rehearsal there may be no rank 0
    if left:
        logged = ranks.on_main(lambda: _begin_files(config, run_dir, state, changed, hosts)) or 0
    writes = left and ranks.is_main
    bad_samples = BadSamples(JsonLines(run_dir / BAD_SAMPLES) if writes else None, ranks, state["bad_samples"])
    stack.callback(bad_samples.close)

    loader = make_loader(
        dataset, ranks.rank, ranks.world_size, micro_batch, accumulation, start, config.data.workers, config.data.prefetch,
        device.mp_start_method, device.pin_memory,
    )  # fmt: skip
    return Run(
        config=config,
        device=device,
        ranks=ranks,
        engine=engine,
        dataset=dataset,
        batches=iter(loader),
        accumulation=accumulation,
        contrast=contrast(config, ranks.world_size),
        graphs=planned_graphs(config, contrast(config, ranks.world_size), device.execution),
        schedule=Schedule(
            config.optim.schedule, warmup, total_steps, length.in_steps("optim.decay", config.optim.decay)
        ),
        checkpoints=checkpoints,
        save_every=length.every("checkpoint.every", config.checkpoint.every),
        validation=validation,
        validate_every=length.every("validation.every", config.validation.every),
        best=best,
        guard=NonFiniteGuard(config.guards.max_skipped, device.torch_device, start, state["skipped"], state["streak"]),
        recompiles=RecompileGuard(device, config.guards.max_recompiles, console.log),
        profile=Profile(config.profile if ranks.is_main else ProfileConfig(), device, run_dir / "profile"),
        bad_samples=bad_samples,
        logged=logged,
        console=console,
        sinks=open_sinks(config, run_dir, start, console) if writes else [],
        fingerprint=fixed,
        start_step=start,
        total_steps=total_steps,
        flops_per_sample=step_flops(config),
    )


def _begin_files(config: TrainConfig, run_dir: Path, state: dict[str, Any], changed: Changed, hosts: list[str]) -> int:
    """Note this start, and drop what was logged after the step of `state`; returns the lines of metrics that are left."""
    begin(config, run_dir, state["step"], changed, hosts)
    left = {}
    for name, expected in ((BAD_SAMPLES, state["bad_samples"]), (METRICS, state["metrics_lines"])):
        left[name] = keep_lines_until(run_dir / name, state["step"])
        if gap := missing_lines(name, left[name], expected, state["step"]):
            print_line(f"{'warning':10}{gap}")
    return len(left[METRICS])


def read_data(config: TrainConfig, ranks: Ranks) -> tuple[TrainConfig, CaptionTokenizer, PairDataset]:
    """(`config` with the tokenizer's vocabulary size, tokenizer, data); checks that all shards are there."""
    tokenizer = open_tokenizer(config.tokenizer, ranks)
    config = dataclasses.replace(config, model=config.model.with_vocabulary(tokenizer.vocab_size))
    dataset = open_data(config, tokenizer, task_class(config).reader(config, tokenizer))
    ranks.on_main(lambda: _check_shards(dataset))
    return config, tokenizer, dataset


def _check_shards(dataset: PairDataset) -> None:
    for corpus in dataset.corpora:
        corpus.check_shards()


def build_engine(
    config: TrainConfig,
    device: Device,
    ranks: Ranks,
    accumulation: int,
    tokenizer: CaptionTokenizer | None,
    compiles: bool = True,
) -> Engine:
    """The task and its optimizer in the configured engine, and unless `compiles` is false, all that it has compiled.

    Weights are random, by the seed; if the run's `tokenizer` is given, those that `config.init` names are loaded.
    """
    one_of("engine.name", config.engine.name, tuple(ENGINES))
    torch.manual_seed(config.seed)
    task = task_class(config)(config, device.attention)
    start = Start([f"resume: the newest intact checkpoint of {config.run_dir}"])
    if tokenizer is not None:
        start = start_weights(task, config.init, tokenizer, ranks)
    for line in start.lines if ranks.is_main else ():
        print_line(f"{'init':10}{line}")
    task.to(device.torch_device)
    if config.engine.activation_checkpointing:
        checkpoint_blocks(task.model, device)
    compared = contrast(config, ranks.world_size)
    if compared.two_passes and config.device.graphs:
        raise ConfigError(
            "device.graphs=true: each replay draws its own dropout, so two passes over a micro-batch would differ; remove it, or "
            "set objective.contrast=micro_batch"
        )
    graphs = planned_graphs(config, compared, device.execution).distinct
    engine = ENGINES[config.engine.name](
        task, device, ranks, config.optim, graphs, accumulates=accumulation > 1, parallel=config.engine
    )
    if compiles:
        warm_up(config, engine)  # before anything is loaded into the optimizer
    if start.optimizer is not None:
        engine.load_optimizer(*start.optimizer)
    return engine


def fit(run: Run, watchdog: Watchdog) -> int:
    """Train from `start_step` to `total_steps`, reporting each stage to `watchdog`.

    Returns the exit code, which is not 0 if a preemption requires another.
    """
    if run.best.exhausted:
        run.console.log(f"nothing left to do: {run.best.exhausted}")
        return 0
    preemption, stop = Preemption(), Flag(run.ranks)
    timer = StepTimer()
    run.engine.preallocate()  # after the loader's workers were forked: earlier pages would be shared and copied
    run.device.mark_step()  # or the first step's graph would include what was recorded so far
    for step in range(run.start_step + 1, run.total_steps + 1):
        watchdog.at(step, READING)
        began = time.perf_counter()
        batches = [next(run.batches) for _ in range(run.accumulation)]
        timer.waited(time.perf_counter() - began)

        watchdog.at(step, "training")
        with run.profile.step(step):
            metrics = train_step(run, step, batches)
        run.recompiles.check(step, [batch.input_ids.shape[1] for batch in batches])

        stopping = stop.agree(preemption.requested or run.checkpoints.failed)
        run.console.advance()
        if step % run.config.log_every == 0 or step == run.total_steps:
            log(run, step, metrics, timer)
        is_best = False
        if run.validation and (step % run.validate_every == 0 or step == run.total_steps):
            watchdog.at(step, "validating")
            is_best = validate(run, run.validation, step)
            timer.restart()
        ended = step == run.total_steps or bool(run.best.exhausted)
        if step % run.save_every == 0 or ended or stopping or is_best:
            watchdog.at(step, "saving")
            save(run, step)
            timer.restart()
        if ended:
            break
        if stopping:
            run.checkpoints.finish()
            run.console.log(f"stopped by a signal after step {step}; the same command resumes from there")
            return preemption.exit_code
    run.checkpoints.finish()
    if run.best.exhausted:
        run.console.log(f"ended before its last step: {run.best.exhausted}")
    preemption.close()
    return 0


def train_step(run: Run, step: int, batches: list[Batch]) -> dict[str, Tensor]:
    """One optimizer step over this rank's micro-batches; nothing in it waits for the device."""
    for batch in batches:
        run.bad_samples.add(batch.bad)
    on_device = [batch.to(run.device.torch_device) for batch in batches]
    first = run.ranks.rank * run.accumulation

    def seed(number: int) -> None:
        """By the place in the global batch, whichever rank has it."""
        run.device.seed(int(random.bits(run.config.seed, "step", step, first + number, 0)))

    metrics = backward(run.engine, on_device, run.contrast, seed)
    set_lr(run.engine.optimizer, run.schedule.factor(step - 1))
    metrics |= run.engine.step()
    run.guard.record(metrics.pop("skipped"))
    run.device.mark_step()
    return metrics


def validate(run: Run, validation: Validation, step: int) -> bool:
    """Write what a validation finds; whether it is the best so far."""
    with run.engine.full_params() as task:
        figures = validation.run(task)
    run.write({"step": step, **figures})
    run.recompiles.forget()
    return run.best.judge(step, figures)


def log(run: Run, step: int, metrics: dict[str, Tensor], timer: StepTimer) -> None:
    """Copy the metrics of this step to the host and write them; stops the run if a guard requires it."""
    figures = to_host(metrics, run.ranks)
    run.recompiles.logged()
    step_s, data_wait = timer.span()
    timer.restart()
    position, samples_per_s = step * run.config.global_batch, run.config.global_batch / step_s
    peak = run.device.peak_flops
    report_bad_samples(run, step)
    run.write(
        {
            "step": step,
            "position": position,
            "epoch": position / run.dataset.order.epoch_samples,
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
    check_bad_records(run.bad_samples.count, position, run.config.data.max_bad_fraction, run.bad_samples.shards)
    if (first := run.guard.streak()) is not None:
        begin = (first - 1) * run.config.global_batch
        samples = [run.dataset.describe(begin + i) for i in range(min(8, run.config.global_batch))]
        named = ", ".join(f"{s['corpus']}/{s['shard']}:{s['key']}" for s in samples)
        raise UserError(
            f"the loss or the gradient was not finite in {run.config.guards.max_skipped} updates in a row, from step {first} on "
            f"(guards.max_skipped); its batch began with {named}. Lower optim.lr, set optim.clip_norm, or look at these records "
            f"with `bridgetower view step={first - 1}`"
        )


def report_bad_samples(run: Run, step: int) -> None:
    """Record the samples that were replaced since the last call, and print the first of them."""
    bad = run.bad_samples.flush(step)
    if bad:
        named = "; ".join(f"{b.corpus}/{b.shard}:{b.key} ({b.reason})" for b in bad[:3])
        run.console.log(f"replaced {len(bad)} records that could not be used: {named}{'; ...' if bad[3:] else ''}")


def save(run: Run, step: int) -> None:
    """Start writing a checkpoint from which the run resumes bit for bit. Raises if the previous one could not be written."""
    report_bad_samples(run, step)
    state = {
        "step": step,
        "position": step * run.config.global_batch,
        "identity": run.fingerprint,
        "skipped": run.guard.total,
        "streak": run.guard.in_a_row,
        "bad_samples": run.bad_samples.count,
        "metrics_lines": run.logged,
        "device": run.device.description,
        "world_size": run.ranks.world_size,
        "host": platform.node(),
        "versions": versions(),
    }
    run.checkpoints.save(run.engine, state, run.best.best)
