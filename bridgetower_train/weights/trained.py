"""What a run has come to at one of its checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from bridgetower_train import compose
from bridgetower_train.config import TrainConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.weights.checkpoint import Log, newest, read_state, step_folders, verify
from bridgetower_train.weights.names import Tensors

ATTEMPTS = 5
"""Times to look for a whole checkpoint anew where the run has removed the one that was being read."""


@dataclass(frozen=True)
class Trained:
    """A checkpoint, read whole, with the run that it is of."""

    run_dir: Path
    config: TrainConfig
    """As the run resolved it last."""
    state: dict[str, Any]
    """The checkpoint's `state.json`."""
    weights: Tensors
    text: CaptionTokenizer

    @property
    def step(self) -> int:
        """Optimizer steps that went into the weights."""
        return int(self.state["step"])


def read_trained(run_dir: Path, step: int | None, tokenizer: str | None, log: Log) -> Trained:
    """Checkpoint `step` of a run, or its newest whole one; the run may go on meanwhile.

    `tokenizer`: where the run's tokenizer is now; None: where it was. ConfigError where there is no such run, step or
    tokenizer, or another tokenizer; UserError where no checkpoint is whole.
    """
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError(f"run_dir={run_dir}: holds no run (no config.yaml)")
    config = compose.from_yaml(TrainConfig, run_dir / "config.yaml")
    for _ in range(ATTEMPTS):
        folder = _checkpoint(run_dir, step, log)
        try:
            state, weights = read_state(folder), load_file(folder / "model.safetensors")
        except FileNotFoundError:
            continue  # the run has saved again, and removed what it keeps no longer
        text = CaptionTokenizer.load(tokenizer or config.tokenizer)
        if text.digest != state["identity"]["tokenizer"]:
            raise ConfigError(
                f"tokenizer={tokenizer or config.tokenizer}: is not the one that the run was trained with; give that one"
            )
        return Trained(run_dir, config, state, weights, text)
    raise UserError(f"{run_dir}: its checkpoints go faster than they can be read; raise its checkpoint.every")


def _checkpoint(run_dir: Path, step: int | None, log: Log) -> Path:
    if step is None:
        folder = newest(run_dir, log)
        if folder is None:
            raise UserError(f"{run_dir}: has no whole checkpoint yet")
        return folder
    there = {int(folder.name[5:]): folder for folder in step_folders(run_dir)}
    if step not in there:
        raise ConfigError(f"step={step}: no such checkpoint; there are {', '.join(map(str, there)) or 'none'}")
    wrong = verify(there[step])
    if wrong is not None:
        raise UserError(f"{there[step]}: {wrong}; choose another step")
    return there[step]
