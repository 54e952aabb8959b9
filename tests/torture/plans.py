"""What is trained, in phases of different engines and numbers of ranks, and what an undisturbed run gives."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bridgetower_train.weights.checkpoint import step_folders, verify
from tests.tiny import TINY
from tests.torture.starts import Start
from tests.training.runs import final_weights, metric_lines


@dataclass(frozen=True)
class Phase:
    """The run up to `until`, on so many ranks. The learning rate is constant, so that a phase does not depend on the next."""

    engine: str
    ranks: int
    workers: int
    until: int

    @property
    def keys(self) -> list[str]:
        """What it is started with, besides the keys of its plan."""
        return [f"engine={self.engine}", f"data.workers={self.workers}", f"steps={self.until}"]


@dataclass
class Plan:
    """A run in several phases. The undisturbed one goes through the same, so that every bit can be compared."""

    name: str
    keys: list[str]
    kinds: list[tuple[str, int, int]]
    """(engine, ranks, loader workers of a rank) of each phase."""
    steps: int
    """Of each phase, and three times as many on one rank."""
    phases: list[Phase] = field(init=False)

    def __post_init__(self) -> None:
        self.phases, until = [], 0
        for engine, ranks, workers in self.kinds:
            until += self.steps * (3 if ranks == 1 else 1)  # whose starts are cheap
            self.phases.append(Phase(engine, ranks, workers, until))


def arguments(plan: Plan, phase: Phase, run_dir: Path, root: str) -> list[str]:
    """Of `bridgetower train`."""
    return [*TINY, *COMMON, *plan.keys, *phase.keys, f"data.root={root}", f"run_dir={run_dir}"]


COMMON = [
    "optim.schedule=constant", "optim.warmup=4", "checkpoint.every=3", "validation.every=20", "validation.samples=8",
    "validation.batch=4", "distributed.timeout=60",
]  # fmt: skip


def plans(root: Path, pretrained: Path, steps: int) -> list[Plan]:
    """Pretraining, and the fine-tuning of what it gives (in `pretrained`)."""
    tokenizer = f"tokenizer={root}/shapes/tokenizer.json"
    pretraining = Plan(
        "pretraining",
        [tokenizer, "data.augment=randaugment"],
        [
            ("native", 1, 2),
            ("native", 2, 1),
            ("zero1", 2, 1),
            ("native", 1, 0),
            ("zero3", 2, 0),
            ("native", 4, 0),
            ("zero2", 2, 1),
        ],
        steps,
    )
    fine_tuning = Plan(
        "fine-tuning",
        [
            tokenizer, f"init.checkpoint={pretrained}", "objective.mlm=0", "objective.itm_negatives=hard", "micro_batch=2",
            "objective.contrast=4", "objective.itc_form=ms", "data.square=squash", "checkpoint.best=val_rsum",
            "validation.retrieval=full", "optim.layer_decay=0.8",
        ],
        [("zero2", 2, 1), ("native", 1, 1), ("zero3", 2, 0), ("native", 2, 1)],
        steps,
    )  # fmt: skip
    return [pretraining, fine_tuning]


def undisturbed(plan: Plan, run_dir: Path, root: str) -> Path:
    """`run_dir`, trained from the first step to the last without a disturbance."""
    for phase in plan.phases:
        start = Start.of(arguments(plan, phase, run_dir, root), phase.ranks, run_dir.with_suffix(".log"))
        start.rest(600)
        if start.wait_for_all(60) is None or start.code:
            raise SystemExit(f"{plan.name}, {phase}: fails without a disturbance\n{start.log.read_text()}")
    return run_dir


@dataclass
class Compared:
    """A disturbed run beside the undisturbed one."""

    lines: int
    differ: int
    """Lines of metrics."""
    faults: list[str]
    """What else is not as it should be."""


def compare(run_dir: Path, whole: Path) -> Compared:
    """Compare the lines of metrics, the last weights and the kept checkpoints of two runs."""
    ours, theirs = metric_lines(run_dir), metric_lines(whole)
    differ = sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
    faults = []
    if final_weights(run_dir) != final_weights(whole):
        faults.append("the last weights differ")
    kept, expected = step_folders(run_dir), step_folders(whole)
    if not {folder.name for folder in expected} <= {folder.name for folder in kept}:  # the next save removes others
        faults.append(f"it kept {[folder.name for folder in kept]}, not {[folder.name for folder in expected]}")
    faults += [f"{folder.name}: {wrong}" for folder in kept if (wrong := verify(folder))]
    if left := sorted(path.name for path in (run_dir / "checkpoints").glob("*.tmp")):
        faults.append(f"{', '.join(left)} left over")
    for line in (run_dir / "starts.jsonl").read_text().splitlines():
        json.loads(line)
    return Compared(len(theirs), differ, faults)


def copy(run_dir: Path, to: Path) -> Path:
    """`to`, a copy of a run folder in place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(run_dir, to, symlinks=True))
