"""Replaces what a rehearsal lacks: data, tokenizer, device, and a model that fits in memory."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from bridgetower_train.config import InitConfig, ModelConfig, TrainConfig
from bridgetower_train.data.roots import is_remote, plain_root
from bridgetower_train.devices.cpu import CpuDevice
from bridgetower_train.errors import ConfigError
from bridgetower_train.host import free_memory
from bridgetower_train.planning.config import ROBERTA_TOKENS
from bridgetower_train.planning.memory import MOMENTS, WEIGHT, Memory, measure
from bridgetower_train.planning.trace import Platform
from bridgetower_train.rehearsal.synthetic import index_bytes, size_of, write_corpora
from bridgetower_train.tasks import contrast
from data_prep.shapes.synthetic import synthetic_tokenizer

MARGIN = 1.5
"""Memory that must be free, in multiples of the plan's figure for a card: `zero3` of `large` took 1.45 times as much (11.9 GiB
instead of 8.2), since the C library fragments what is freed, and a machine out of memory may kill any process."""


@dataclass(frozen=True)
class Setup:
    """A configuration that runs here, and what was replaced."""

    config: TrainConfig
    memory: Memory
    """Of the configured model."""
    notes: dict[str, str]
    """Part of the run -> what replaces it."""


def set_up(config: TrainConfig, rank: int, world_size: int, folder: Path) -> Setup:
    """Replace what is missing, below `folder`. ConfigError if that has too little space."""
    notes = {}
    missing = _missing_manifest(config)
    if missing:
        names = _corpora(config)
        free, needed = shutil.disk_usage(folder).free, index_bytes(names)
        if needed > free:
            raise ConfigError(
                f"scratch={folder.parent}: the synthetic indexes need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
                "name a folder with more space"
            )
        write_corpora(folder, names, config)
        sizes = ", ".join("{} {:,} x {}".format(name, *size_of(name)) for name in names)
        notes["data"] = f"synthetic, since {missing} does not exist; images x captions: {sizes}"
        config = replace(config, data=replace(config.data, root=str(folder), cache_dir=None))
    if not os.path.exists(config.tokenizer):
        notes["tokenizer"] = f"synthetic, since {config.tokenizer} does not exist"
        config = replace(config, tokenizer=str(folder / "tokenizer.json"))
        config = replace(config, model=replace(config.model, vocab_size=config.model.vocab_size or ROBERTA_TOKENS))
        synthetic_tokenizer().save(config.tokenizer)
    if config.init.named:
        named = ", ".join(f"{key}={given}" for key, given in config.init.named.items())
        notes["start"] = f"random weights in place of {named}, which is neither fetched nor read"
        config = replace(config, init=InitConfig())
    if config.device.name != "cpu":
        notes["device"] = f"cpu in place of {config.device.name}, {config.device.precision}"
        config = replace(config, device=replace(config.device, name="cpu", execution="auto", graphs=False))
    if config.optim.moments not in CpuDevice.moments:
        notes["moments"] = f"fp32 in place of {config.optim.moments}, which the cpu does not have"
        config = replace(config, optim=replace(config.optim, moments="fp32"))
    sized = replace(config, model=replace(config.model, vocab_size=config.model.vocab_size or ROBERTA_TOKENS))
    platform = Platform.on_paper(fused_attention=False, precision=config.device.precision)
    memory = measure(sized, platform, config.engine.activation_checkpointing)
    compared = contrast(config, world_size)
    use = memory.use(config.engine.name, compared.micro_batch, world_size, contrast=compared)
    needed = int(MARGIN * use.total)
    if rank == 0:
        needed += (WEIGHT + MOMENTS) * memory.parameters  # the copy that a checkpoint is written from
    free = free_memory()
    if needed > free:
        config = replace(config, model=cut(config.model))
        notes["model"] = (
            f"cut to {config.model.vision_layers} + {config.model.text_layers} + {config.model.fusion_layers} layers of width "
            f"{config.model.width}: as configured it may need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
        )
    # What it writes is removed, and not reported.
    config = replace(config, run_dir=str(folder / "run"), resume_from=None, wandb=replace(config.wandb, project=None))
    return Setup(config, memory, notes)


def cut(model: ModelConfig) -> ModelConfig:
    """`model` with the layers and width of `tiny`; images, texts and vocabulary stay."""
    return replace(model, width=128, vision_layers=4, text_layers=4, fusion_layers=2)


def _corpora(config: TrainConfig) -> list[str]:
    """The corpora that the run reads, the held-out one last."""
    read = [*config.data.trained]
    return [*read, config.data.validation] if config.data.validation else read


def _missing_manifest(config: TrainConfig) -> Path | None:
    """The first manifest that does not exist; those of a remote root are left to the run itself."""
    names = [] if is_remote(config.data.root) else _corpora(config)
    paths = (Path(plain_root(config.data.root), name, "manifest.json") for name in names)
    return next((path for path in paths if not path.exists()), None)
