"""A trained run, ready to be asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from bridgetower_train import compose
from bridgetower_train.config import DeviceConfig, TrainConfig
from bridgetower_train.data.cache import ShardCache
from bridgetower_train.data.shards import Corpus, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.devices import Device, make_device
from bridgetower_train.distributed import local_rank
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.evaluation.predictor import Predictor
from bridgetower_train.tasks.pretraining import Pretraining
from bridgetower_train.weights.checkpoint import newest, read_state

OBJECTIVES = {"mlm": "masked words", "itm": "image-text matching", "itc": "the contrast"}
"""Key of ObjectiveConfig -> what cannot be asked of a run that was trained without it."""


@dataclass(frozen=True)
class TrainedRun:
    """The newest whole checkpoint of a run."""

    folder: Path
    config: TrainConfig
    checkpoint: Path
    device: Device
    predictor: Predictor

    @property
    def state(self) -> dict[str, Any]:
        """`state.json` of the checkpoint."""
        return read_state(self.checkpoint)

    def open_corpus(self, name: str | None, root: str | None = None) -> Corpus:
        """The corpus `name` below `root`; None: the run's own `data.validation` and `data.root`."""
        data = self.config.data
        name = name or data.validation
        if name is None:
            raise ConfigError("corpus: the run has no data.validation; name a corpus folder below its data.root")
        cache = ShardCache(data.cache_dir, int(data.cache_gb * 1e9)) if data.cache_dir else None
        return open_corpus(root or data.root, name, cache)


def read_config(run_dir: str) -> TrainConfig:
    """The configuration of a run; ConfigError where the folder holds none."""
    path = Path(run_dir, "config.yaml")
    if not path.is_file():
        raise ConfigError(f"run_dir={run_dir}: holds no run (no config.yaml)")
    return compose.from_yaml(TrainConfig, path)


def load_run(run_dir: str, device_name: str, needs: tuple[str, ...] = ()) -> TrainedRun:
    """Load the newest whole checkpoint of `run_dir` on a device, named as by `device.name`.

    ConfigError where there is no run, or where it was trained without one of the objectives `needs`; UserError where it has
    no whole checkpoint.
    """
    config = read_config(run_dir)
    for name in needs:
        if not getattr(config.objective, name):
            raise ConfigError(
                f"run_dir={run_dir}: was trained with objective.{name}=0 and cannot be asked for {OBJECTIVES[name]}"
            )
    checkpoint = newest(Path(run_dir), print)
    if checkpoint is None:
        raise UserError(f"{run_dir}: has no whole checkpoint yet")
    device, _ = make_device(DeviceConfig(name=device_name, precision=config.device.precision), local_rank())
    task = Pretraining(config, device.attention)
    task.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    predictor = Predictor(task.to(device.torch_device), CaptionTokenizer.load(config.tokenizer), device)
    return TrainedRun(Path(run_dir), config, checkpoint, device, predictor)
