"""`bridgetower train`: train, or resume, and print what was found."""

from contextlib import ExitStack

import torch

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.worker import killed_worker
from bridgetower_train.devices import make_device
from bridgetower_train.distributed import exit_with_parent, init_ranks, local_rank, shut_down
from bridgetower_train.training.metrics import clock
from bridgetower_train.training.run import Run, build, fit, planned_graphs
from bridgetower_train.watchdog import Watchdog


def run(config: TrainConfig) -> int:
    """Train as `config` says; resumes where the run folder holds a checkpoint. Returns the exit code."""
    exit_with_parent()
    device, why = make_device(config.device, local_rank())
    ranks = init_ranks(device.backend, config.distributed)
    try:
        with Watchdog(ranks, config.distributed.timeout) as watchdog, ExitStack() as stack:
            job = build(config, device, ranks, stack)
            if ranks.is_main:
                print_summary(job, why)
            try:
                return fit(job, watchdog)
            except RuntimeError as error:
                killed = killed_worker(error, config.data)
                if killed is None:
                    raise
                raise killed from None
            finally:
                for sink in job.sinks:
                    sink.close()
    finally:
        shut_down()


def print_summary(run: Run, why: str) -> None:
    """Say what was found and what will be done; `why` tells how the device was chosen."""
    config, device = run.config, run.device
    batch, epoch, left = config.global_batch, run.dataset.order.epoch_samples, run.total_steps - run.start_step
    ranks, micro_batches = run.ranks.world_size, run.accumulation
    parameters = run.engine.parameter_count
    flops = batch * run.flops_per_sample
    lines = {
        "device": f"{device.name} ({device.description}): {why}; {config.device.precision}, torch {torch.__version__}",
        "model": f"{parameters / 1e6:.2f} M parameters, {config.model.image_size} px, {flops / 1e12:.3g} TFLOP per step",
        "batch": f"{batch} = {ranks} ranks x {batch // ranks // micro_batches} pairs x {micro_batches} micro-batches; "
        f"{config.data.lanes} lanes of {config.samples_per_lane}",
        "run": f"{run.total_steps:,} steps = {run.total_steps * batch:,} pairs = {run.total_steps * batch / epoch:.2f} epochs "
        f"of {epoch:,}; {config.run_dir}",
        "time": f"about {clock(left * flops / (0.4 * device.peak_flops * ranks))} at 40% of peak"
        if device.peak_flops
        else f"{left * flops / 1e12:.1f} TFLOP to go, which the first steps will turn into a time",
    }
    if device.compiles:
        lengths = ", ".join(map(str, config.text_lengths))
        lines["graphs"] = (
            f"{planned_graphs(config, micro_batches)} of the forward and backward pass, for texts of {lengths} tokens; more than "
            f"{config.guards.max_recompiles} compilations after the warm-up end the run"
        )
    for corpus in run.dataset.corpora:
        print(f"{'data':10}{corpus.name}: {corpus.manifest.images:,} images, {corpus.manifest.captions:,} captions")
    for name, text in lines.items():
        print(f"{name:10}{text}")
    if run.start_step:
        ignored = f" (and not from {', '.join(config.init.named)})" if config.init.named else ""
        print(f"{'resume':10}from step {run.start_step:,}{ignored}" + (": nothing left to do" if left <= 0 else ""))
