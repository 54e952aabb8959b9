"""A run from its first step to its last: the loop, the step, and what is logged and saved.

`assembly` puts it together; the update is in the engine, the losses are in the task.
"""

import platform
import time

from torch import Tensor

from bridgetower_train import random
from bridgetower_train.data.batch import Batch
from bridgetower_train.display import plural
from bridgetower_train.distributed import Flag, Interrupted, Interruptible
from bridgetower_train.engines.optim import set_lr
from bridgetower_train.errors import UserError
from bridgetower_train.training.assembly import Run
from bridgetower_train.training.guards import check_bad_records
from bridgetower_train.training.metrics import (
    Gallery,
    StepTimer,
    to_host,
)
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.step import backward, update
from bridgetower_train.versions import versions
from bridgetower_train.watchdog import READING, Watchdog


def fit(run: Run, watchdog: Watchdog, preemption: Preemption) -> int:
    """Train from `start_step` to `total_steps`, reporting each stage to `watchdog`, or until `preemption`.

    Returns the exit code, which is not 0 if a preemption requires another.
    """
    if run.best.exhausted:
        run.console.log(f"nothing left to do: {run.best.exhausted}")
        return 0
    if run.unvalidated:
        watchdog.at(run.start_step, "validating")
        if validate(run, run.start_step, preemption) is None:
            return stopped(run, preemption, run.start_step)
        save(run, run.start_step)
    stop, timer = Flag(run.ranks), StepTimer(run.engine.stopwatch)
    run.engine.preallocate()  # after the loader's workers were forked: earlier pages would be shared and copied
    run.device.mark_step()  # or the first step's graph would include what was recorded so far
    last = run.start_step if run.best.exhausted else run.total_steps
    for step in range(run.start_step + 1, last + 1):
        watchdog.at(step, READING)
        began = time.perf_counter()
        batches = [next(run.batches) for _ in range(run.contrast.micro_batches)]
        timer.waited(time.perf_counter() - began)

        watchdog.at(step, "training")
        with run.profile.step(step):
            metrics = train_step(run, step, batches)
        timer.computed(run.count(step, batches))
        run.recompiles.check(step, [batch.shape for batch in batches])

        stopping = stop.agree(preemption.requested or run.checkpoints.failed)
        run.console.advance()
        if step % run.config.log_every == 0 or step == run.total_steps:
            log(run, step, metrics, timer)
        is_best: bool | None = False
        if run.validation and (step % run.validate_every == 0 or step == run.total_steps):
            watchdog.at(step, "validating")
            is_best = validate(run, step, preemption)
            timer.restart()
        interrupted = is_best is None
        ended = not interrupted and (step == run.total_steps or bool(run.best.exhausted))
        if step % run.save_every == 0 or ended or stopping or interrupted or is_best:
            watchdog.at(step, "saving")
            save(run, step, unvalidated=interrupted)
            timer.restart()
        if ended:
            break
        if stopping or interrupted:
            return stopped(run, preemption, step)
    run.checkpoints.finish()
    if run.best.exhausted:
        run.console.log(f"ended before its last step: {run.best.exhausted}")
    return 0


def stopped(run: Run, preemption: Preemption, step: int) -> int:
    """The exit code of a run that a signal ended once what it saved after `step` is written."""
    run.checkpoints.finish()
    run.console.log(f"stopped by a signal after step {step}; the same command resumes from there")
    return preemption.exit_code


def train_step(run: Run, step: int, batches: list[Batch]) -> dict[str, Tensor]:
    """One optimizer step over this rank's micro-batches; nothing in it waits for the device."""
    for batch in batches:
        run.bad_samples.add(batch.bad)
    on_device = [batch.to(run.device.torch_device) for batch in batches]
    first = run.ranks.rank * run.contrast.micro_batches

    def seed(number: int) -> None:
        """By the place in the global batch, whichever rank has it."""
        run.device.seed(int(random.bits(run.config.seed, "step", step, first + number, 0)))

    metrics = backward(run.engine, on_device, run.contrast, seed)
    set_lr(run.engine.optimizer, run.schedule.factor(step - 1))
    metrics |= update(run.engine, run.guard, by_layer(run, step))
    if by_layer(run, step):
        run.recompiles.forget()
    del metrics["skipped"]  # the guard counts it
    return metrics


def by_layer(run: Run, step: int) -> bool:
    """Whether norms of layers are logged at this step; where graphs are compiled, they are others than those of other steps."""
    every = run.config.metrics.layers_every
    return every > 0 and step % every == 0


def validate(run: Run, step: int, preemption: Preemption) -> bool | None:
    """Write what a validation finds; whether it is the best so far. None, and nothing written, where a signal ended it."""
    assert run.validation
    ranks = Interruptible(**vars(run.ranks), asked=lambda: preemption.requested)
    galleries = [sink for sink in run.sinks if isinstance(sink, Gallery)]
    with run.engine.full_params() as task:
        try:
            figures = run.validation.run(task, ranks)
        except Interrupted:
            return None
        pictures = run.validation.pictures(task) if galleries else {}
    run.write({"step": step, **figures})
    for sink in galleries:
        sink.show(step, pictures)
    run.recompiles.forget()
    return run.best.judge(step, figures)


def log(run: Run, step: int, metrics: dict[str, Tensor], timer: StepTimer) -> None:
    """Copy the metrics of this step to the host and write them; stops the run if a guard requires it."""
    figures = to_host(metrics, run.ranks)
    run.recompiles.logged()
    if by_layer(run, step):
        run.recompiles.forget()
    step_s, data_wait = timer.span()
    flops_per_s, slowest = timer.flops_per_second(), timer.slowest(run.ranks)
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
            **run.guard.figures(),
            "bad_samples": run.bad_samples.count,
            "samples_per_s": samples_per_s,
            "step_s": step_s,
            "data_wait": data_wait,
            **slowest,
            "mfu": peak and flops_per_s / peak,
            "memory_gb": run.device.memory_gb(),
            **({"recompiles": run.recompiles.count} if run.device.compiles else {}),
        }
    )
    check_bad_records(run.bad_samples.count, position, run.config.data.max_bad_fraction, run.bad_samples.shards)
    if (first := run.guard.streak()) is not None:
        begin = (first - 1) * run.config.global_batch
        samples = [run.dataset.describe(begin + i) for i in range(min(8, run.config.global_batch))]
        named = ", ".join(f"{s['corpus']}/{s['shard']}:{s['key']}" for s in samples)
        before = run.checkpoints.last_before(first)
        go_back = (
            "No checkpoint is older: start in another run_dir, with a lower optim.lr or optim.clip_norm"
            if before is None
            else f"Go back to the newest checkpoint before it with resume_from={before} and a lower optim.lr or optim.clip_norm"
        )
        raise UserError(
            f"{run.guard.reason} in {run.config.guards.max_skipped} updates in a row, from step {first} on (guards.max_skipped); "
            f"its batch began with {named}. {go_back}, or look at these records with `bridgetower view step={first - 1}`"
        )


def report_bad_samples(run: Run, step: int) -> None:
    """Record the samples that were replaced since the last call, and print the first of them."""
    bad = run.bad_samples.flush(step)
    if bad:
        named = "; ".join(f"{b.corpus}/{b.shard}:{b.key} ({b.reason})" for b in bad[:3])
        run.console.log(
            f"replaced {plural(len(bad), 'record')} that could not be used: {named}{'; ...' if bad[3:] else ''}"
        )


def save(run: Run, step: int, unvalidated: bool = False) -> None:
    """Start writing a checkpoint from which the run resumes bit for bit. Raises if the previous one could not be written.

    `unvalidated`: a resume begins with the validation of this step.
    """
    report_bad_samples(run, step)
    state = {
        "step": step,
        "position": step * run.config.global_batch,
        "identity": run.fingerprint,
        **run.guard.state(),
        "bad_samples": run.bad_samples.count,
        "metrics_lines": run.logged,
        "unvalidated": unvalidated,
        "device": run.device.description,
        "world_size": run.ranks.world_size,
        "host": platform.node(),
        "versions": versions(),
        "corpora": {corpus.name: corpus.manifest.fingerprints for corpus in run.dataset.corpora},
    }
    run.checkpoints.save(run.engine, state, run.best.best)
