"""Trained weights with what is needed to use them, from a run folder, an exported folder or the Hugging Face hub."""

import errno
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from bridgetower_train import compose
from bridgetower_train.config import ROBERTA_POSITION_OFFSET, DataConfig, DeviceConfig, ModelConfig, TrainConfig
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.display import print_line
from bridgetower_train.engines.base import WEIGHTS
from bridgetower_train.errors import ConfigError, FileError, UserError
from bridgetower_train.tasks import task_class
from bridgetower_train.tasks.names import names_in
from bridgetower_train.weights import hub
from bridgetower_train.weights.checkpoint import chosen, newest, read_state, verify
from bridgetower_train.weights.fit import check_description, read_description, sizes
from bridgetower_train.weights.hf_files import ENTRY
from bridgetower_train.weights.names import POSITIONS, Tensors, whole_model
from bridgetower_train.weights.read import read_tensors

ATTEMPTS = 5
"""Times to look for a complete checkpoint where the run has removed the one that was being read."""


@dataclass(frozen=True)
class SavedModel:
    """A checkpoint of a run, or exported weights, without the tensors."""

    source: str
    """A folder, as it was given, or `name@commit` on the hub."""
    folder: Path
    """Of the checkpoint, or of the exported weights."""
    config: TrainConfig
    """As `read_config` reads it. Of an export, what its config.json and its tensors tell; all else has its default."""
    tokenizer: CaptionTokenizer
    run_dir: Path | None
    """None for exported weights."""
    state: dict[str, Any]
    """The checkpoint's `state.json`; empty for exported weights."""
    names: Sequence[str] = ()
    """Of the labels (Task.names_file)."""
    calibration: Mapping[str, float] = field(default_factory=dict)
    """Corpus -> expected calibration error of image-text matching, as exported weights bring it."""

    @property
    def step(self) -> int | None:
        """Optimizer steps that went into the weights; None where that is not known."""
        return int(self.state["step"]) if self.state else None

    @property
    def name(self) -> str:
        """Of the checkpoint; of exported weights, where they are from."""
        return self.folder.name if self.run_dir else self.source

    @property
    def named(self) -> str:
        """The key and its value, as error messages begin."""
        return f"run_dir={self.source}"


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run."""
    return os.path.isfile(os.path.join(folder, "config.yaml"))


def read_config(run_dir: str | Path) -> TrainConfig:
    """The configuration of a run; ConfigError where the folder is not that of a run.

    It may be a stranger's. `data.cache_dir` is left out: only the command line says where shards are written and evicted.
    """
    if not is_run(run_dir):
        raise ConfigError(f"run_dir={run_dir}: is not a run (it has no config.yaml); give the folder of one")
    config = compose.from_yaml(TrainConfig, Path(run_dir, "config.yaml"))
    return replace(config, data=replace(config.data, cache_dir=None))


def config_of(source: str, key: str = "run_dir") -> TrainConfig:
    """The configuration of a model at `source`, see `read_saved`; `key` is what error messages name."""
    return read_config(source) if is_run(source) else _read_export(source, None, key)[0].config


def read_saved(source: str, step: str = "newest", tokenizer: str | None = None) -> tuple[SavedModel, Tensors]:
    """(what is at `source`, its weights): a run folder, a folder that `bridgetower export` wrote, or a name on the hub.

    `step`: which checkpoint of a run, see `checkpoint.chosen`. The run may be in progress. `tokenizer`: where the tokenizer is
    now; None: where the run had it, or in the exported folder. ConfigError where there is no such source, step
    or tokenizer, or where the tokenizer is another one; UserError where no checkpoint is complete.
    """
    if is_run(source):
        return _read_run(source, step, tokenizer)
    if step != "newest":
        raise ConfigError(f"step={step}: {source} is not a run, and only a run has steps; leave it out")
    return _read_export(source, tokenizer)


def _read_run(source: str, step: str, tokenizer: str | None) -> tuple[SavedModel, Tensors]:
    config, run_dir = read_config(source), Path(source)
    for _ in range(ATTEMPTS):
        folder = chosen(run_dir, step, print_line)
        try:
            state, weights = read_state(folder), load_file(folder / WEIGHTS)
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE):
                raise
            continue  # the run has saved again, and removed the oldest
        except SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS}: {error}; choose another step") from None
        path = tokenizer or config.tokenizer
        text = CaptionTokenizer.load(hub.tokenizer(path, ask=tokenizer is not None))
        if text.digest != state["identity"].get("tokenizer"):
            raise ConfigError(f"tokenizer={path}: is not the one that the run was trained with; give that one")
        return SavedModel(source, folder, config, text, run_dir, state, _names(config, run_dir)), weights
    raise UserError(f"{source}: its checkpoints go faster than they can be read; raise its checkpoint.every")


def _read_export(source: str, tokenizer: str | None, key: str = "run_dir") -> tuple[SavedModel, Tensors]:
    named = f"{key}={source}"
    folder = locate(source, named)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{named}: has neither config.yaml nor config.json; give a run folder, an exported folder or a name on the hub"
        )
    described = read_description(folder / "config.json", named)
    weights = whole_model(read_tensors(folder, named))
    config = _config_of(described, weights, named)
    check_description(folder / "config.json", "init.checkpoint", config.model, named)
    text = CaptionTokenizer.load(hub.tokenizer(tokenizer) if tokenizer else str(folder))
    config.model.with_vocabulary(text.vocab_size)
    if not Path(source).exists():
        source = f"{source.partition('@')[0]}@{folder.name}"
    calibration = calibration_errors(_settings(described).get("calibration"))
    return SavedModel(source, folder, config, text, None, {}, _names(config, folder), calibration), weights


def calibration_errors(found: object) -> dict[str, float]:
    """Of `found`, corpus -> expected calibration error as a file has it, what can be one."""
    kept = found.items() if isinstance(found, dict) else ()
    return {corpus: error for corpus, error in kept if isinstance(error, float) and 0 <= error <= 1}


def _settings(described: dict[str, Any]) -> dict[str, Any]:
    """Our entry of a `config.json`; empty where it has none."""
    entry = described.get(ENTRY)
    return entry if isinstance(entry, dict) else {}


def _names(config: TrainConfig, folder: Path) -> list[str]:
    """Of the labels; FileError where a folder lacks them, or has others than its model."""
    file = task_class(config).names_file
    names = names_in(folder, file) if file else []
    if len(names) != (config.classifier.labels if file else 0):
        raise FileError(f"{folder / file}: has {len(names)} names, and the model {config.classifier.labels} labels")
    return names


def _config_of(described: dict[str, Any], weights: Tensors, named: str) -> TrainConfig:
    """The run that could have written these weights, as far as they and their `config.json` tell."""
    settings = _settings(described)
    known: dict[str, Any] = {key.removeprefix("model."): size for key, size in sizes(weights).items()}
    try:
        grid = math.isqrt(len(weights[POSITIONS]) - 1)
        longest = min(ModelConfig.max_text_len, known["text_positions"] - ROBERTA_POSITION_OFFSET)
        model = ModelConfig(
            image_size=grid * known["patch_size"],
            max_text_len=int(settings.get("max_text_len", longest)),
            layer_norm_eps=float(described.get("layer_norm_eps", ModelConfig.layer_norm_eps)),
            **known,
        )
        data = DataConfig(square=str(settings.get("square", DataConfig.square)))
        device = DeviceConfig(precision=str(settings.get("precision", DeviceConfig.precision)))
        config = TrainConfig(task=str(settings.get("task", TrainConfig.task)), model=model, data=data, device=device)
        return task_class(config).from_export(config, settings, weights)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        missing = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{named}: is not a BridgeTower of this project or the hub's: {missing}") from None


def locate(given: str, named: str) -> Path:
    """The file or folder that `given` stands for: itself, the newest complete checkpoint of a run, or what the hub has.

    ConfigError beginning with `named`, the key and its value, where there is none.
    """
    path = Path(given)
    if not path.exists():
        if hub.is_name(given):
            return hub.fetch(given, named)
        raise ConfigError(f"{named}: no such file or folder")
    if (path / "checkpoints").is_dir():
        found = newest(path, print_line)
        if found is None:
            raise ConfigError(f"{named}: the run has no complete checkpoint")
        return found
    if (path / "state.json").is_file():
        wrong = verify(path)
        if wrong is not None:
            raise ConfigError(f"{named}: {wrong}")
    return path
