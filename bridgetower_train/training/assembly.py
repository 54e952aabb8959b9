"""A run is put together: what it reads, the engine, the newest checkpoint, and what it writes."""

import dataclasses
import hashlib
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bridgetower_train.config import ProfileConfig, RunLength, Shape, TrainConfig, one_of
from bridgetower_train.data.batch import Batch
from bridgetower_train.data.dataset import PairDataset, open_data
from bridgetower_train.data.loader import make_loader
from bridgetower_train.data.manifest import as_file
from bridgetower_train.data.roots import require_root_of
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device
from bridgetower_train.display import print_line
from bridgetower_train.distributed import Ranks, run_dir_lock
from bridgetower_train.engines import ENGINES, Engine
from bridgetower_train.engines.activation import checkpoint_blocks
from bridgetower_train.engines.graphs import Graphs, planned_graphs
from bridgetower_train.engines.optim import Schedule
from bridgetower_train.errors import ConfigError
from bridgetower_train.files import atomic_write
from bridgetower_train.tasks import Contrast, contrast, flops_by_shape, task_class
from bridgetower_train.training.best import BestSoFar
from bridgetower_train.training.checkpoints import Checkpoints, fingerprint
from bridgetower_train.training.going_back import GoingBack, abandon, finish, going_back
from bridgetower_train.training.guards import NEW as UNGUARDED
from bridgetower_train.training.guards import UpdateGuard
from bridgetower_train.training.history import Changed, begin, resumed
from bridgetower_train.training.metrics import (
    BAD_SAMPLES,
    METRICS,
    BadSamples,
    Console,
    JsonLines,
    LogRecord,
    Sink,
    keep_lines_until,
    missing_lines,
)
from bridgetower_train.training.profiling import Profile
from bridgetower_train.training.recompiles import RecompileGuard
from bridgetower_train.training.tracking import open_sinks
from bridgetower_train.training.validation import Validation, check_validation
from bridgetower_train.training.warm_up import settle_execution, warm_up
from bridgetower_train.weights.checkpoint import step_folders
from bridgetower_train.weights.initial import Inherited, Start, open_tokenizer, start_weights

FROZEN_KEYS = (
    "seed", "global_batch", "task", "model.", "objective.", "classifier.",
    "data.corpora", "data.captions", "data.augment", "data.square", "data.lanes", "data.shuffle",
    "optim.freeze",
)  # fmt: skip
"""Keys that must not change on resume: they determine the weights and the order of data."""

NEW: dict[str, Any] = {**UNGUARDED, "bad_samples": 0, "metrics_lines": 0, "best": None, "unvalidated": False}
"""The state of a run that has not been saved yet."""


@dataclass
class Run:
    """All parts of a run, ready to continue from `start_step`."""

    config: TrainConfig
    device: Device
    ranks: Ranks
    engine: Engine
    dataset: PairDataset
    batches: Iterator[Batch]
    contrast: Contrast
    graphs: Graphs | None
    schedule: Schedule
    checkpoints: Checkpoints
    save_every: int
    """Steps."""
    validation: Validation | None
    validate_every: int
    """Steps; 0 without validation."""
    best: BestSoFar
    guard: UpdateGuard
    recompiles: RecompileGuard
    profile: Profile
    bad_samples: BadSamples
    logged: int
    """Lines of metrics so far."""
    console: Console
    sinks: list[Sink]
    fingerprint: LogRecord
    start_step: int
    unvalidated: bool
    """Whether a signal ended the validation of `start_step`."""
    total_steps: int
    patches_until: int
    """Steps that leave patches out (`model.patch_dropout`); the others train on whole images."""
    flops: dict[Shape, float]
    """Per sample, by the shape of its micro-batch."""
    computed: float = 0.0
    """FLOPs of this rank so far."""
    at_most: float = 0.0
    """What they would be if all texts were of the longest length."""

    def flops_per_sample(self, step: int) -> float:
        """FLOPs of a step per sample, with texts of the longest length; beyond the last step those of the last."""
        model, within = self.config.model, min(step, self.total_steps) <= self.patches_until
        return self.flops[Shape(model.max_text_len, model.kept_patches if within else None)]

    def count(self, step: int, batches: Sequence[Batch]) -> float:
        """The FLOPs of this rank's step; adds them up."""
        samples = [len(batch.input_ids) for batch in batches]
        computed = sum(self.flops[batch.shape] * pairs for batch, pairs in zip(batches, samples, strict=True))
        self.computed += computed
        self.at_most += self.flops_per_sample(step) * sum(samples)
        return computed

    def flops_left(self) -> float:
        """FLOPs per sample of a step, added up over the steps after `start_step`, with texts of the longest length."""
        whole = self.total_steps - min(max(self.start_step, self.patches_until), self.total_steps)
        first, last = (self.flops_per_sample(step) for step in (0, self.total_steps))
        return (self.total_steps - self.start_step - whole) * first + whole * last

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
    compared = contrast(config, ranks.world_size)
    check_validation(config)
    config, tokenizer, dataset, names = read_data(config, ranks)
    run_dir = Path(config.run_dir)
    length = RunLength.of(config.steps, config.global_batch, dataset.order.epoch_samples)
    resumes: bool = ranks.gather_objects(bool(step_folders(run_dir)))[0]
    settle_execution(config, device, ranks, compared, length.steps)
    graphs = planned_graphs(config, compared, device.execution)
    engine, optimizer = build_engine(config, device, ranks, compared, graphs, None if resumes else tokenizer)
    validation = Validation(config, tokenizer, device, ranks, names) if config.validation.wanted else None
    lock = stack.enter_context(run_dir_lock(run_dir, ranks))
    fixed = identity(config, tokenizer, dataset, micro_batch, names)
    checkpoints = Checkpoints(
        run_dir, config.checkpoint, ranks, print_line if ranks.is_main else lambda text: None, lock
    )
    stack.callback(checkpoints.close)
    older = fingerprint(TrainConfig(), FROZEN_KEYS) | {"micro_batch": micro_batch}
    changed: Changed = {}
    back: GoingBack | None = None
    if resumes:
        config, changed = ranks.on_main(lambda: resumed(config, run_dir))
        back = ranks.on_main(lambda: going_back(config, run_dir, changed))
    elif config.resume_from is not None:
        raise ConfigError(f"resume_from={config.resume_from}: no such checkpoint; {run_dir} has none")
    found = checkpoints.find(fixed, older, back.step if back else None)
    state = found[1] if found else NEW
    start = state["step"]
    if start < length.steps:
        warm_up(config, engine, compared)  # before anything is loaded into the optimizer
    if found:
        engine.load(found[0])
        if not back:
            checkpoints.tidy(found[0], state["best"])
    elif optimizer:
        engine.load_optimizer(*optimizer)

    total_steps, warmup = length.steps, length.in_steps("optim.warmup", config.optim.warmup)
    console = Console(start, total_steps, quiet=not ranks.is_main)
    best = BestSoFar(config, state["best"], console.log)
    unvalidated = state["unvalidated"] and validation is not None
    left = (start < total_steps or unvalidated) and not best.exhausted
    hosts = ranks.gather_objects(platform.node())
    logged = 0  # in a rehearsal there may be no rank 0
    if left:
        logged = ranks.on_main(lambda: _begin_files(config, run_dir, state, changed, hosts, back, names)) or 0
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
        contrast=compared,
        graphs=graphs,
        schedule=Schedule(
            config.optim.schedule, warmup, total_steps, length.in_steps("optim.decay", config.optim.decay)
        ),
        checkpoints=checkpoints,
        save_every=length.every("checkpoint.every", config.checkpoint.every),
        validation=validation,
        validate_every=length.every("validation.every", config.validation.every),
        best=best,
        guard=UpdateGuard(config.guards, device.torch_device, state),
        recompiles=RecompileGuard(device, config.guards.max_recompiles, console.log),
        profile=Profile(config.profile if ranks.is_main else ProfileConfig(), device, run_dir / "profile"),
        bad_samples=bad_samples,
        logged=logged,
        console=console,
        sinks=open_sinks(config, run_dir, start, console) if writes else [],
        fingerprint=fixed,
        start_step=start,
        unvalidated=unvalidated,
        total_steps=total_steps,
        patches_until=length.in_steps("model.patch_dropout_until", config.model.patch_dropout_until),
        flops=flops_by_shape(config),
    )


def identity(
    config: TrainConfig, tokenizer: CaptionTokenizer, dataset: PairDataset, micro_batch: int, names: Sequence[str]
) -> LogRecord:
    """What must not change on resume."""
    fixed = fingerprint(config, FROZEN_KEYS) | {"tokenizer": tokenizer.digest, "order": dataset.order.digest}
    if names:
        fixed["labels"] = hashlib.sha256(as_file(names).encode()).hexdigest()
    return fixed | ({"micro_batch": micro_batch} if task_class(config).decided_by_micro_batch(config) else {})


def _begin_files(
    config: TrainConfig,
    run_dir: Path,
    state: dict[str, Any],
    changed: Changed,
    hosts: list[str],
    back: GoingBack | None,
    names: Sequence[str],
) -> int:
    """Note this start, and drop what was logged after the step of `state`; returns the lines of metrics that are left."""
    if names:
        atomic_write(run_dir / task_class(config).names_file, as_file(names))
    if back:
        abandon(run_dir, back)
    begin(config, run_dir, state["step"], changed, hosts, str(back.folder.relative_to(run_dir)) if back else None)
    if back:
        finish(back)
    left = {}
    for name, expected in ((BAD_SAMPLES, state["bad_samples"]), (METRICS, state["metrics_lines"])):
        # Killed once it had validated, and before it was saved again, the run has a line too many.
        most = expected if state["unvalidated"] else None
        left[name] = keep_lines_until(run_dir / name, state["step"], most)
        if gap := missing_lines(name, left[name], expected, state["step"]):
            print_line(f"{'warning':10}{gap}")
    return len(left[METRICS])


def read_data(config: TrainConfig, ranks: Ranks) -> tuple[TrainConfig, CaptionTokenizer, PairDataset, Sequence[str]]:
    """(`config` with what tokenizer and corpora decide, tokenizer, data, names of labels); checks that all shards are there."""
    require_root_of(config.tokenizer, config.data.root)
    tokenizer = open_tokenizer(config.tokenizer, ranks)
    config = dataclasses.replace(config, model=config.model.with_vocabulary(tokenizer.vocab_size))
    task = task_class(config)
    config, names = task.settled(config)
    dataset = open_data(config, tokenizer, task.reader(config, tokenizer, names))
    ranks.on_main(lambda: _check_shards(dataset))
    return config, tokenizer, dataset, names


def _check_shards(dataset: PairDataset) -> None:
    for corpus in dataset.corpora:
        corpus.check_shards()


def build_engine(
    config: TrainConfig,
    device: Device,
    ranks: Ranks,
    compared: Contrast,
    graphs: Graphs | None,
    tokenizer: CaptionTokenizer | None,
) -> tuple[Engine, Inherited | None]:
    """(the task and its optimizer in the configured engine, the state that `init.optimizer` asks to load into it).

    Weights are random, by the seed; if the run's `tokenizer` is given, those that `config.init` names are loaded.
    """
    one_of("engine.name", config.engine.name, tuple(ENGINES))
    if compared.two_passes and config.device.graphs:
        raise ConfigError(
            "device.graphs=true: each replay draws its own dropout, so two passes over a micro-batch would differ; remove it, or "
            "set objective.contrast=micro_batch"
        )
    torch.manual_seed(config.seed)
    task = task_class(config)(config, device.attention)
    start = Start([f"resume: the newest intact checkpoint of {config.run_dir}"])
    if tokenizer is not None:
        start = start_weights(task, config.init, tokenizer, ranks)
    for line in start.lines if ranks.is_main else ():
        print_line(f"{'init':10}{line}")
    task.to(device.torch_device)
    device.compile(task.model)
    if config.engine.activation_checkpointing:
        checkpoint_blocks(task.model, device)
    engine = ENGINES[config.engine.name](
        task,
        device,
        ranks,
        config.optim,
        graphs.distinct if graphs else 0,
        accumulates=compared.micro_batches > 1,
        parallel=config.engine,
    )
    return engine, start.optimizer
