"""`bridgetower train`: start or resume a run."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from bridgetower_train import compose
from bridgetower_train.config import TrainConfig
from bridgetower_train.data.augment import patches_in_words
from bridgetower_train.data.roots import is_remote
from bridgetower_train.devices import make_device
from bridgetower_train.display import plural, print_line
from bridgetower_train.distributed import init_ranks, local_rank, shut_down
from bridgetower_train.doctor.data import check_exportable, check_identity, check_overlap
from bridgetower_train.doctor.start import check_random
from bridgetower_train.errors import UserError
from bridgetower_train.findings import Finding
from bridgetower_train.tasks import describe, task_class
from bridgetower_train.training.assembly import Run, build
from bridgetower_train.training.metrics import clock
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.run import fit
from bridgetower_train.watchdog import Watchdog
from bridgetower_train.weights.checkpoint import step_folders


def run(config: TrainConfig) -> int:
    """Train with `config`; resumes if the run folder has a checkpoint. Returns the exit code."""
    device, why = make_device(config.device_here, local_rank(), config.engine.name)
    timeout = config.distributed.timeout
    patience = 3600 * config.data.retry_hours + timeout if is_remote(config.data.root) else 0.0
    with ExitStack() as ending:
        ranks = init_ranks(device.backend, config.distributed, patience)
        ending.callback(shut_down)
        with Watchdog(ranks, timeout, patience) as watchdog, ExitStack() as stack:
            job = build(config, device, ranks, stack)
            preemption = ending.enter_context(Preemption(ranks.is_main))  # before, there is nothing to save
            failed = True
            try:
                if ranks.is_main:
                    print_summary(job, why)
                code = fit(job, watchdog, preemption)
                failed = False
            except RuntimeError as error:
                # Torch raises it in a signal handler, so it may surface anywhere.
                if not str(error).startswith("DataLoader worker"):
                    raise
                raise UserError(
                    f"{str(error).rstrip('. ')}. Most often the host ran out of memory, or /dev/shm out of space: lower "
                    f"data.workers={config.data.workers} or data.prefetch={config.data.prefetch}, or give the job more (Docker: "
                    "--memory, and --ipc=host or --shm-size); the kernel log (dmesg) lists processes killed for lack of memory"
                ) from None
            finally:
                for sink in job.sinks:
                    sink.close(failed)
            if ranks.is_main and not preemption.requested:
                print_end(job)
            return code


def train(overrides: Sequence[str]) -> Path:
    """`bridgetower train` with these overrides, such as `["steps=2", "run_dir=runs/a"]`, in this process; the folder of the run.

    ConfigError for keys that do not fit; UserError where the run ends before its last step.
    """
    config = compose.compose(TrainConfig, "train", list(overrides))
    if code := run(config):
        raise UserError(f"{config.run_dir}: the run ended early, with the exit code {code}; train again to resume it")
    return Path(config.run_dir)


def print_summary(run: Run, why: str) -> None:
    """Print what was detected and what will be done; `why` is the reason for the choice of device."""
    config, device = run.config, run.device
    batch, epoch, left = config.global_batch, run.dataset.order.epoch_samples, run.total_steps - run.start_step
    ranks, micro_batches = run.ranks.world_size, run.contrast.micro_batches
    frozen = f" ({run.engine.trained_count / 1e6:.2f} M trained)" if config.optim.freeze else ""
    flops = batch * run.flops_per_sample(run.start_step + 1)
    to_do = batch * run.flops_left()
    lines = {
        "device": f"{device.name} ({device.description}): {why}; {config.device.precision}, torch {torch.__version__}",
        "model": f"{run.engine.parameter_count / 1e6:.2f} M parameters{frozen}, {config.model.image_size} px, "
        f"{flops / 1e12:.3g} TFLOP per step",
        "batch": f"{batch:,} = {plural(ranks, 'rank')} x {plural(batch // ranks // micro_batches, 'sample')} x "
        f"{plural(micro_batches, 'micro-batch')}; {plural(config.data.lanes, 'lane')} of {config.samples_per_lane}",
        "run": f"{run.total_steps:,} steps = {run.total_steps * batch:,} samples = {run.total_steps * batch / epoch:.2f} epochs "
        f"of {epoch:,}; {config.run_dir}",
    }
    if device.undecided:
        lines["execution"] = device.execution_why
    if left > 0 and device.peak_flops:
        lines["time"] = f"about {clock(to_do / (0.4 * device.peak_flops * ranks))} at 40% of peak"
    if config.model.kept_patches is not None:
        lines["images"] = patches_in_words(config.model)
    if len(config.text_lengths) > 1:
        lines["texts"] = _lengths_in_words(run)
    if described := describe(config, run.contrast):
        lines["contrast"] = described
    if run.validation:
        lines["held out"] = f"every {run.validate_every:,} steps, {run.validation.described}"
    if run.graphs:
        lines["graphs"] = (
            f"{run.graphs.describe(config)}; the run stops after more than {config.guards.max_recompiles} compilations beyond "
            "the warm-up"
        )
    for corpus in run.dataset.corpora:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in corpus.manifest.kinds.items())
        counted = f"{corpus.manifest.images:,} images, {corpus.manifest.captions:,} captions"
        print_line(f"{'data':10}{corpus.name}: {counted}{f' ({kinds})' if kinds else ''}")
    for name, text in lines.items():
        print_line(f"{name:10}{text}")
    for finding in remarks(run):
        print_line(f"{'warning':10}{finding.subject}: {finding.found}; {finding.todo}")
    if run.start_step:
        ignored = f" (ignoring {', '.join(config.init.named)})" if config.init.named else ""
        print_line(
            f"{'resume':10}from step {run.start_step:,}{ignored}"
            + (", with its validation" if run.unvalidated else ": nothing left to do" if left <= 0 else "")
        )


def _lengths_in_words(run: Run) -> str:
    shortest, *others, longest = run.config.shapes[: len(run.config.text_lengths)]
    lengths = ", ".join(str(shape.tokens) for shape in (shortest, *others))
    return (
        f"padded to {lengths} or {longest.tokens} tokens, the least that fits a micro-batch; at {shortest.tokens} a step is "
        f"{run.flops[shortest] / run.flops[longest]:.0%} of the work"
    )


def print_end(run: Run) -> None:
    """Print the newest checkpoint, the newest figures, and what to do next."""
    config, task = run.config, task_class(run.config)
    checkpoints = step_folders(Path(config.run_dir))
    if not checkpoints:
        return
    names = ["loss", *(metric.name for metric in task.metrics(config) if metric.better == "max")]
    last = run.console.last
    if len(config.text_lengths) > 1 and run.computed < run.at_most:  # sums of equal lengths may round apart
        print_line(f"{'texts':10}padded to what fits them: {1 - run.computed / run.at_most:.0%} of the work was saved")
    found = [f"{key} {last[key]:.3f}" for name in names for key in (name, f"val_{name}") if key in last]
    print_line(f"{'saved':10}{checkpoints[-1]}")
    if found:
        print_line(f"{'figures':10}{'  '.join(found)}")
    corpus = "" if config.data.validation else f" corpus={next(iter(config.data.trained))}"
    for number, command in enumerate((f"eval run_dir={config.run_dir}{corpus}", f"report run_dir={config.run_dir}")):
        print_line(f"{'' if number else 'next':10}bridgetower {command}")


def remarks(run: Run) -> list[Finding]:
    """What would make the run learn less than it could; of remote corpora no record is fetched for it."""
    local = [corpus for corpus in run.dataset.corpora if not is_remote(corpus.folder)]
    shared = check_identity(local) if len(local) == len(run.dataset.corpora) else []
    held_out = [run.validation.images.corpus] if run.validation else []
    found = [
        *(overlap for corpus in held_out for overlap in check_overlap(run.dataset.corpora, corpus)),
        *check_exportable(run.dataset.tokenizer, run.config),
        *shared,
    ]
    return found if run.start_step else [*check_random(run.config), *found]
