"""`bridgetower rehearse world_size=512 rank=137 experiment=...`: simulate one rank of a large run on one CPU."""

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bridgetower_train.config import TrainConfig, at_least
from bridgetower_train.data.batch import Batch
from bridgetower_train.devices import make_device
from bridgetower_train.display import print_line
from bridgetower_train.distributed import shut_down
from bridgetower_train.errors import ConfigError
from bridgetower_train.pages.markdown import table
from bridgetower_train.planning.collectives import link_bytes
from bridgetower_train.planning.hardware import GIB
from bridgetower_train.planning.memory import ENGINES
from bridgetower_train.rehearsal.coverage import check_coverage
from bridgetower_train.rehearsal.group import Log, Traffic, agree_for_deepspeed, join
from bridgetower_train.rehearsal.setup import Setup, set_up
from bridgetower_train.tasks import describe, task_class
from bridgetower_train.training.assembly import Run, build
from bridgetower_train.training.metrics import LogRecord
from bridgetower_train.training.preemption import Preemption
from bridgetower_train.training.run import fit
from bridgetower_train.watchdog import Watchdog

_STEP = "step 1"


@dataclass(frozen=True)
class RehearseConfig(TrainConfig):
    """The run, and which of its ranks to simulate."""

    world_size: int = 512
    """Ranks of the run; must divide data.lanes."""
    rank: int = 0
    """The rank to simulate, from 0; rank 0 writes checkpoints."""
    rehearsed_steps: int = 2
    """Optimizer steps; the last one is logged and saved."""
    scratch: str | None = None
    """Existing folder for synthetic indexes and the checkpoint, removed at the end; null: the system's temporary folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("world_size", self.world_size, 2)
        at_least("rehearsed_steps", self.rehearsed_steps, 2)
        if not 0 <= self.rank < self.world_size:
            allowed = f"from 0 to {self.world_size - 1}, with world_size={self.world_size}"
            raise ConfigError(f"rank={self.rank}: must be {allowed}")


def run(config: RehearseConfig) -> None:
    """Check what all ranks read, run one of them, and print what it sent, held and wrote."""
    if not config.data.corpora:
        raise ConfigError("data.corpora: is empty; name at least one corpus, as in data.corpora={coco: 1.0}")
    config.rank_batch(config.world_size)
    began = time.perf_counter()
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=config.scratch, prefix="rehearsal-")))
        except OSError as error:
            reason = f"cannot be written to ({error.strerror}); name another folder"
            raise ConfigError(f"scratch={config.scratch}: {reason}") from None
        setup = set_up(config, config.rank, config.world_size, folder)
        print(f"{'rank':10}{config.rank} of {config.world_size}")
        for part, note in setup.notes.items():
            print_line(f"{part:10}{note}")
        device, _ = make_device(setup.config.device, engine=config.engine.name)
        # A forked loader worker would keep a copy of every weight that an update changes.
        device.mp_start_method = "forkserver"
        ranks, log = join(config.rank, config.world_size)
        stack.callback(shut_down)
        if config.engine.name == "zero3":
            agree_for_deepspeed(device)
        job = build(setup.config, device, ranks, stack)
        _cover(job)
        _play(job, config.rehearsed_steps, log)
        print("\n".join([*_held(setup, job), "", _sent(log, config.world_size)]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{'took':10}{time.perf_counter() - began:.0f} s, {peak / 2**30:.1f} GiB at most")


def _cover(job: Run) -> None:
    began = time.perf_counter()
    samples, left_out = check_coverage(
        job.dataset.order, job.ranks.world_size, job.contrast.micro_batch, job.contrast.micro_batches
    )
    print(
        f"{'epoch':10}{job.ranks.world_size} ranks together read {samples:,} samples, each as often as it should be; "
        f"{left_out:,} sit out, fewer than the {job.config.data.lanes} lanes; {time.perf_counter() - began:.0f} s",
        flush=True,
    )


class _Last:
    """A sink that keeps the last record of a training step."""

    def __init__(self) -> None:
        self.record: LogRecord = {}

    def write(self, record: LogRecord) -> None:
        if "loss" in record:
            self.record = record

    def close(self, failed: bool) -> None:
        pass


def _play(job: Run, steps: int, log: Log) -> None:
    """The run itself, for a few steps, which the log keeps apart."""
    last, began = _Last(), time.perf_counter()
    batches = _labelled(job.batches, job.contrast.micro_batches, log)
    watchdog = Watchdog(job.ranks, job.config.distributed.timeout)  # not entered: there are no other ranks
    fit(replace(job, total_steps=steps, batches=batches, sinks=[*job.sinks, last]), watchdog, Preemption())
    losses = ", ".join(f"{name} {value:.3f}" for name, value in last.record.items() if name.startswith("loss"))
    written = sum(file.stat().st_size for file in job.checkpoints.folder.rglob("*") if file.is_file())
    print(f"{'ran':10}{steps} steps and a checkpoint in {time.perf_counter() - began:.0f} s; {losses}")
    print(f"{'saved':10}{written / 1e9:.3f} GB by this rank" + ("" if job.ranks.is_main else "; rank 0 writes for all"))


def _labelled(batches: Iterator[Batch], accumulation: int, log: Log) -> Iterator[Batch]:
    for number, batch in enumerate(batches):
        log.phase = f"step {number // accumulation + 1}"
        yield batch


def _held(setup: Setup, job: Run) -> Iterator[str]:
    """Estimated memory of a card, and the size of the contrast."""
    memory, W = setup.memory, job.ranks.world_size
    micro_batch = job.contrast.micro_batch
    yield f"{'card':10}{memory.parameters / 1e6:.1f} M parameters as configured, {micro_batch} pairs; estimated, by engine:"
    for engine in ENGINES:
        use = memory.use(engine, micro_batch, W, contrast=job.contrast)
        yield (
            f"{'':10}{engine:7}{use.total / GIB:7.2f} GiB: weights {(use.weights + use.copies) / GIB:.2f}, gradients "
            f"{use.gradients / GIB:.2f}, optimizer {use.optimizer / GIB:.2f}, activations {use.activations / GIB:.2f}"
        )
    if job.contrast.among:
        rows, columns = job.contrast.rows, job.contrast.columns
        gathered = 4 * job.contrast.gathered * W * task_class(job.config).gathered(job.config)
        yield (
            f"{'contrast':10}{rows} rows x {columns:,} columns, {4 * rows * columns / 1e6:.3f} MB of logits a term; "
            f"{gathered / 1e6:.2f} MB of gathered embeddings"
        )
        yield f"{'':10}{describe(job.config, job.contrast)}"


def _sent(log: Log, world_size: int) -> str:
    """The collectives of one step, and those before and after it."""
    step = {key: traffic for key, traffic in log.traffic.items() if key.phase == _STEP}
    rest: dict[tuple[str, str], Traffic] = {}
    later = "the steps after it, a line of metrics, a checkpoint"
    for key, traffic in log.traffic.items():
        if key.phase != _STEP:
            label = "before the first step" if key.phase == "start" else later
            sum_ = rest.setdefault((label, key.between), Traffic())
            sum_.count, sum_.bytes = sum_.count + traffic.count, sum_.bytes + traffic.bytes
    header = ("collectives of step 1", "between", "calls", "bytes", "sent by a card on a ring", "called by")
    rows = [
        (key.kind, key.between, traffic.count, f"{traffic.bytes:,}",
         f"{link_bytes(key.kind, traffic.bytes, world_size):,.0f}", key.caller)
        for key, traffic in step.items()
    ]  # fmt: skip
    rows += [(label, ends, sum_.count, f"{sum_.bytes:,}", "", "") for (label, ends), sum_ in rest.items()]
    return table(header, rows, left=2)
