"""Going back to an earlier checkpoint (`resume_from`): what the run did after it moves to `abandoned/`, whole or not at all.

The folder that takes it in is named `.moving` until all is there and the start is noted. A start that finds such a folder, since
the one before was killed, moves the rest first.
"""

import itertools
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bridgetower_train.config import TrainConfig
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError
from bridgetower_train.evaluation.protocol import read_evaluations
from bridgetower_train.files import atomic_write, own_folder, sync
from bridgetower_train.training.history import Changed
from bridgetower_train.training.metrics import BAD_SAMPLES, METRICS, lines_after
from bridgetower_train.weights.checkpoint import folder_name, step_folders, step_of, verify

_FOLDER, _MOVING = "abandoned", ".moving"
_ATTEMPT = ("resume_from", "optim.", "guards.")


@dataclass(frozen=True)
class GoingBack:
    """A run that goes back to the checkpoint of `step`."""

    step: int
    moving: Path
    """Takes in what came after it."""

    @property
    def folder(self) -> Path:
        """Its name at the end."""
        return self.moving.with_suffix("")


def going_back(config: TrainConfig, run_dir: Path, changed: Changed) -> GoingBack | None:
    """How this start goes back; None where it resumes from the newest checkpoint.

    `changed`: the keys that differ from those of the start before. The same command goes back once: where neither `resume_from`
    nor a key of `optim` or `guards` has changed, it was done. ConfigError where there is no intact checkpoint of that step.
    """
    asked = config.resume_from
    acts = asked is not None and any(key.startswith(_ATTEMPT) for key in changed)
    for moving in run_dir.glob(f"{_FOLDER}/after-step-{'[0-9]' * 8}-*{_MOVING}"):
        begun = GoingBack(int(moving.name.split("-")[2]), moving)
        if acts and asked != begun.step:
            raise ConfigError(
                f"resume_from={asked}: going back to step {begun.step} was killed; give resume_from={begun.step}, or leave it "
                "out, to end that first"
            )
        return begun
    if asked is None:
        return None
    if not acts:
        print_line(
            f"{'resume':10}resume_from={asked} was done by an earlier start; the newest checkpoint is taken. It acts again with "
            "another step, optim.* or guards.*"
        )
        return None
    _check(asked, run_dir)
    names = (f"after-{folder_name(asked)}-{number}" for number in itertools.count(1))
    free = next(name for name in names if not (run_dir / _FOLDER / name).exists())
    return GoingBack(asked, run_dir / _FOLDER / f"{free}{_MOVING}")


def _check(asked: int, run_dir: Path) -> None:
    there = {step_of(folder): folder for folder in step_folders(run_dir)}
    wrong = verify(there[asked]) if asked in there else "no such checkpoint"
    if wrong is not None:
        others = ", ".join(str(step) for step in there if step != asked) or "none"
        raise ConfigError(f"resume_from={asked}: {wrong}; there are {others} in {run_dir}")


def abandon(run_dir: Path, back: GoingBack) -> None:
    """Move what came after, or what an earlier call has left of it."""
    own_folder(run_dir / _FOLDER)
    own_folder(back.moving)
    sync(run_dir / _FOLDER)
    for name in (METRICS, BAD_SAMPLES):  # the lines themselves are dropped where a run begins
        _write_once(back.moving / name, lines_after(run_dir / name, back.step))
    evaluations = read_evaluations(run_dir / "eval.json")
    later = {name: found for name, found in evaluations.items() if _after(found.get("step"), back.step)}
    if later:
        kept = {name: found for name, found in evaluations.items() if name not in later}
        _write_once(back.moving / "eval.json", json.dumps({"evaluations": later}, indent=1).encode())
        atomic_write(run_dir / "eval.json", json.dumps({"evaluations": kept}, indent=1))
    for folder in reversed(step_folders(run_dir)):
        if step_of(folder) > back.step:
            folder.rename(back.moving / folder.name)
    with suppress(FileNotFoundError):  # from here on it is another run of W&B
        (run_dir / "wandb_id").rename(back.moving / "wandb_id")
    atomic_write(run_dir / "checkpoints" / "latest", folder_name(back.step))
    for left_over in back.moving.glob(".*.tmp"):
        left_over.unlink()
    sync(back.moving)
    print_line(f"{'back':10}to step {back.step:,}; what came after is in {back.folder}")


def finish(back: GoingBack) -> None:
    """All has been moved, and the start is noted."""
    back.moving.rename(back.folder)
    sync(back.folder.parent)


def _write_once(path: Path, content: bytes) -> None:
    if content and not path.exists():
        atomic_write(path, content)


def _after(step: object, last: int) -> bool:
    return isinstance(step, int) and step > last
