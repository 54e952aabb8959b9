"""The sinks of a run: metrics.jsonl and the console, and what tracks its experiments: TensorBoard and W&B."""

import dataclasses
import netrc
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bridgetower_train.config import TrainConfig
from bridgetower_train.display import print_line, printable, public
from bridgetower_train.errors import FileError
from bridgetower_train.evaluation.base import Picture
from bridgetower_train.files import atomic_write
from bridgetower_train.foreign import parse_json, read_bytes, read_lines
from bridgetower_train.training.metrics import METRICS, Console, JsonLines, LogRecord, Sink, TensorBoard

_START_SECONDS = 30.0
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


class Wandb:
    """Weights & Biases. With the same `run_id`, a resumed run continues its W&B run.

    Its environment counts, as does `wandb login`; without a key, and where the server cannot be reached at the start, the run
    is logged offline. What the W&B run lacks of `metrics.jsonl` is logged first: each offline piece is whole by itself, so that
    syncing it loses nothing, whatever became of the pieces before.
    """

    def __init__(self, config: TrainConfig, run_id: str) -> None:
        self._run = _started(
            project=config.wandb.project,
            entity=config.wandb.entity,
            id=run_id,
            resume="allow",
            dir=config.run_dir,
            config=public(dataclasses.asdict(config)),
        )
        self._from = self._run.step
        """The first step that the W&B run does not have."""
        for record in _logged(Path(config.run_dir, METRICS)):
            self.write(record)

    def write(self, record: LogRecord) -> None:
        if record["step"] >= self._from:
            figures = {k: v for k, v in record.items() if k != "step" and isinstance(v, int | float)}
            self._run.log(figures, step=record["step"])

    def show(self, step: int, pictures: dict[str, list[Picture]]) -> None:
        if step >= self._from:
            import wandb

            shown = {
                name: [wandb.Image(pixels.permute(1, 2, 0).numpy(), caption=caption) for pixels, caption in examples]
                for name, examples in pictures.items()
            }
            self._run.log(shown, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _started(**options: Any) -> Any:
    """The W&B run: as its environment and settings say, offline without a key, and where it cannot be had online."""
    import wandb

    if "WANDB_MODE" not in os.environ and not _has_key(wandb.setup().settings.base_url):
        return wandb.init(mode="offline", **options)
    settings: dict[str, Any] = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": _START_SECONDS}
    try:
        return wandb.init(settings=wandb.Settings(**settings), **options)
    except wandb.Error as error:
        reason = printable(str(error).partition("\n")[0])
        print_line(f"{'wandb':10}cannot be reached ({reason}); this start is logged offline, see `wandb sync`")
    wandb.teardown()  # the id is still in use
    return wandb.init(mode="offline", **options)


def _has_key(url: str) -> bool:
    """Whether the environment or `wandb login` gives a key for the server at `url`."""
    if any(os.environ.get(name) for name in _KEYS):
        return True
    named = os.environ.get("NETRC")
    for path in [named] if named else ["~/.netrc", "~/_netrc"]:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(os.path.expanduser(path)).authenticators(urlsplit(url).hostname or ""):
                return True
    return False


def _logged(path: Path) -> Iterator[LogRecord]:
    """The records of a `metrics.jsonl`."""
    for line in read_lines(path) if path.exists() else ():
        with suppress(FileError):
            record = parse_json(line, dict[str, Any], METRICS)
            if isinstance(record.get("step"), int):
                yield record


TRACKERS: dict[str, Callable[[TrainConfig, Path, int], Sink | None]] = {
    "tensorboard": lambda config, run_dir, start: (
        TensorBoard(run_dir / "tensorboard", start) if config.tensorboard else None
    ),
    "wandb": lambda config, run_dir, start: Wandb(config, _wandb_id(run_dir)) if config.wandb.project else None,
}
"""Name -> what opens a tracker for a run that resumes after a step; None where it is not wanted."""


def open_sinks(config: TrainConfig, run_dir: Path, start: int, console: Console) -> list[Sink]:
    """The sinks of a run that resumes after step `start`."""
    trackers = (tracker(config, run_dir, start) for tracker in TRACKERS.values())
    return [JsonLines(run_dir / METRICS), console, *filter(None, trackers)]


def _wandb_id(run_dir: Path) -> str:
    """The W&B id of this run, created at its first start."""
    path = run_dir / "wandb_id"
    if not path.exists():
        atomic_write(path, secrets.token_hex(4))
    return read_bytes(path, 64).decode("ascii", "replace")
