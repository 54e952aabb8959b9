"""`bridgetower train`: put a run together, say what was found, train."""

import dataclasses
import secrets
from contextlib import ExitStack
from pathlib import Path

import torch

from bridgetower_train import compose
from bridgetower_train.config import Duration, ModelConfig, ProfileConfig, TrainConfig
from bridgetower_train.data.dataset import PairDataset, make_loader, open_data
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.data.worker import killed_worker
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import Ranks, exit_with_parent, init_ranks, local_rank, run_dir_lock, shut_down
from bridgetower_train.engines import ENGINES, Engine
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.errors import ConfigError, nearest
from bridgetower_train.evaluation.validation import Validation
from bridgetower_train.files import atomic_write
from bridgetower_train.model.flops import step_flops_per_sample
from bridgetower_train.tasks.pretraining.task import JointTask
from bridgetower_train.training.checkpoint import Checkpoints, identity, step_folders
from bridgetower_train.training.guards import NonFiniteGuard
from bridgetower_train.training.loop import Run, fit
from bridgetower_train.training.metrics import BadSamples, Console, JsonLines, Sink, TensorBoard, Wandb, clock
from bridgetower_train.training.optim import Schedule
from bridgetower_train.training.profiling import Profile
from bridgetower_train.training.recompiles import RecompileGuard
from bridgetower_train.watchdog import Watchdog
from bridgetower_train.weights.initial import start_weights

FROZEN_KEYS = (
    "seed",
    "global_batch",
    "model.",
    "objective.",
    "data.corpora",
    "data.captions",
    "data.augment",
    "data.lanes",
    "data.shuffle_window",
)
"""Keys that a run keeps for life: they decide what its weights are and what it sees when."""


def run(config: TrainConfig) -> int:
    """Train as `config` says; resumes where the run folder holds a checkpoint. Returns the exit code."""
    exit_with_parent()
    device, why = make_device(config.device, local_rank())
    ranks = init_ranks(device.backend, config.distributed)
    try:
        with Watchdog(ranks, config.distributed.timeout) as progress, ExitStack() as stack:
            job = build(config, device, ranks, stack)
            if ranks.is_main:
                print_summary(job, why)
            try:
                return fit(job, progress)
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


def build(config: TrainConfig, device: Device, ranks: Ranks, stack: ExitStack) -> Run:
    """Everything that `fit` needs, loaded from the newest checkpoint where there is one.

    The run folder is made, and kept from other runs until `stack` ends, once nothing in the configuration is wrong.
    """
    micro_batch, accumulation = config.rank_batch(ranks.world_size)
    config, text, dataset = read_data(config, ranks)
    run_dir = Path(config.run_dir)
    resumes: bool = ranks.gather_objects(bool(step_folders(run_dir)))[0]
    engine = build_engine(config, device, ranks, None if resumes else text)
    validation = Validation(config, text, device, ranks) if config.validation.every else None
    stack.enter_context(run_dir_lock(run_dir, ranks))
    fixed = identity(config, FROZEN_KEYS) | {"tokenizer": text.digest, "order": dataset.order.digest}
    checkpoints = Checkpoints(run_dir, config.checkpoint, ranks, print if ranks.is_main else _silent)
    stack.callback(checkpoints.close)
    state = checkpoints.load(engine, fixed) or {"step": 0, "skipped": 0, "bad_samples": 0}
    start = state["step"]
    if ranks.is_main:
        atomic_write(run_dir / "config.yaml", compose.to_yaml(config))

    total_steps, schedule = plan_steps(config, dataset.order.epoch_samples)
    loader = make_loader(
        dataset, ranks.rank, ranks.world_size, micro_batch, accumulation, start, config.data.workers, config.data.prefetch,
        device.mp_start_method, device.pin_memory,
    )  # fmt: skip
    console = Console(start, total_steps, quiet=not ranks.is_main)
    return Run(
        config=config,
        device=device,
        ranks=ranks,
        engine=engine,
        dataset=dataset,
        batches=iter(loader),
        accumulation=accumulation,
        schedule=schedule,
        checkpoints=checkpoints,
        validation=validation,
        guard=NonFiniteGuard(config.guards.max_skipped, device.torch_device, start, state["skipped"]),
        recompiles=RecompileGuard(device, config.guards.max_recompiles, console.log),
        profile=Profile(config.profile if ranks.is_main else ProfileConfig(), device, run_dir / "profile"),
        bad_samples=BadSamples(run_dir / "bad_samples.jsonl", ranks, start, state["bad_samples"]),
        console=console,
        sinks=_sinks(config, run_dir, start, console) if ranks.is_main else [],
        identity=fixed,
        start_step=start,
        total_steps=total_steps,
        flops_per_sample=step_flops_per_sample(config.model, config.objective),
    )


def read_data(config: TrainConfig, ranks: Ranks) -> tuple[TrainConfig, CaptionTokenizer, PairDataset]:
    """(`config` with the size of the vocabulary, the text side, the pairs), all shards being there."""
    text = CaptionTokenizer.load(config.tokenizer)
    config = dataclasses.replace(config, model=sized_vocabulary(config.model, text.vocab_size))
    dataset = open_data(config, text)
    if ranks.is_main:
        for corpus in dataset.corpora:
            corpus.check_shards()
    return config, text, dataset


def build_engine(config: TrainConfig, device: Device, ranks: Ranks, text: CaptionTokenizer | None) -> Engine:
    """Model, losses and optimizer in the configured engine.

    The weights depend on the seed and, where `text`, the run's tokenizer, is given, on what `config.init` names.
    """
    if config.engine.name not in ENGINES:
        raise ConfigError(
            f"engine.name={config.engine.name}: must be one of {', '.join(ENGINES)}{nearest(config.engine.name, ENGINES)}"
        )
    torch.manual_seed(config.seed)
    task = JointTask(config.model, config.objective, attention=device.attention)
    if text is not None:
        for line in start_weights(task.model, config.init, text, ranks):
            print(f"{'init':10}{line}")
    task.to(device.torch_device)
    if config.engine.activation_checkpointing:
        checkpoint_blocks(task.model)
    _, accumulation = config.rank_batch(ranks.world_size)
    graphs = planned_graphs(config, accumulation)
    return ENGINES[config.engine.name](task, device, ranks, config.optim, graphs, accumulates=accumulation > 1)


def planned_graphs(config: TrainConfig, accumulation: int) -> int:
    """Graphs of the forward and backward pass: one per text length, and another where its gradients are added to others."""
    return len(config.text_lengths) * min(accumulation, 2)


def plan_steps(config: TrainConfig, epoch_samples: int) -> tuple[int, Schedule]:
    """(optimizer steps of the run, learning-rate schedule)."""
    total = Duration.parse("steps", config.steps).steps(config.global_batch, epoch_samples)
    warmup = Duration.parse("optim.warmup", config.optim.warmup).steps(config.global_batch, epoch_samples, total)
    return total, Schedule(config.optim.schedule, warmup, total)


def sized_vocabulary(model: ModelConfig, tokens: int) -> ModelConfig:
    """`model` with as many word rows as the tokenizer has tokens; ConfigError where it was given fewer."""
    if model.vocab_size is not None and model.vocab_size < tokens:
        raise ConfigError(
            f"model.vocab_size={model.vocab_size}: the tokenizer has {tokens} tokens; raise it, or change tokenizer"
        )
    return dataclasses.replace(model, vocab_size=model.vocab_size or tokens)


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


def _sinks(config: TrainConfig, run_dir: Path, start: int, console: Console) -> list[Sink]:
    sinks: list[Sink] = [JsonLines(run_dir / "metrics.jsonl", start), console]
    if config.tensorboard:
        sinks.append(TensorBoard(run_dir / "tensorboard", start))
    if config.wandb.project:
        sinks.append(Wandb(config, _wandb_id(run_dir)))
    return sinks


def _wandb_id(run_dir: Path) -> str:
    """The id under which W&B knows this run, from its first start on."""
    path = run_dir / "wandb_id"
    if not path.exists():
        atomic_write(path, secrets.token_hex(4))
    return path.read_text()


def _silent(text: str) -> None:
    """What ranks other than the first say."""
