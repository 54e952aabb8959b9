"""The configuration of a run."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from bridgetower_train.config.checks import Duration, at_least, divisors, nearest_of
from bridgetower_train.config.data import DataConfig
from bridgetower_train.config.model import ClassifierConfig, InitConfig, ModelConfig, ObjectiveConfig
from bridgetower_train.config.training import (
    CheckpointConfig,
    DeviceConfig,
    DistributedConfig,
    EngineConfig,
    GuardsConfig,
    MetricsConfig,
    OptimConfig,
    ProfileConfig,
    ValidationConfig,
    WandbConfig,
)
from bridgetower_train.errors import ConfigError


class Shape(NamedTuple):
    """What tells the shapes of one micro-batch from those of another in a run."""

    tokens: int
    """Of each text."""
    patches: int | None = None
    """Of each image; None: all of them."""

    def __str__(self) -> str:
        """For people."""
        left = "" if self.patches is None else f" and {self.patches} patches of each image"
        return f"texts of {self.tokens} tokens{left}"


@dataclass(frozen=True)
class TrainConfig:
    """A run."""

    run_dir: str = "???"
    """Folder of the run: configuration, metrics, checkpoints, report. A run started again in the same folder resumes."""
    resume_from: int | None = None
    """Go back to the checkpoint of this step, once: what the run did after it moves to `abandoned/`. The same command started
    again resumes from the newest checkpoint, as with null; with other keys of `optim` or `guards` it goes back again."""
    seed: int = 0
    """Seed of everything random: weights, order, masks, negatives, dropout."""
    steps: str = "???"
    """Length of the run: optimizer steps (1000), '2e6 samples' or '10 epochs'."""
    global_batch: int = 64
    """Samples per optimizer step, over all ranks."""
    micro_batch: int | None = None
    """Samples per forward pass and rank; gradients accumulate to the global batch. null: all of a rank's samples at once."""
    log_every: int = 10
    """Steps between lines of metrics."""
    tokenizer: str = "???"
    """A `tokenizer.json` with RoBERTa's special tokens, its folder, or a name on the Hugging Face hub (NAME@REVISION)."""
    task: str = "pretraining"
    """What the model is trained for: `pretraining`, `vqav2`, `snli_ve`, `nlvr2` or `classes`."""
    tensorboard: bool = True
    """Write TensorBoard files into the run folder."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        at_least("resume_from", 1 if self.resume_from is None else self.resume_from, 1)
        at_least("log_every", self.log_every, 1)
        if self.metrics.layers_every % self.log_every:
            raise ConfigError(
                f"metrics.layers_every={self.metrics.layers_every}: must be a multiple of log_every={self.log_every}"
            )
        at_least("global_batch", self.global_batch, 1)
        if self.steps != "???" and Duration.parse("steps", self.steps).unit == "%":
            raise ConfigError(f"steps={self.steps}: cannot be a percentage; give steps, samples or epochs")
        self._check_lanes()
        if self.micro_batch is not None and (self.micro_batch < 1 or self.micro_batch % self.samples_per_lane):
            raise ConfigError(
                f"micro_batch={self.micro_batch}: must be a multiple of global_batch / data.lanes = {self.samples_per_lane}, "
                "so that it is made of whole lanes"
            )
        contrast = self.objective.contrast
        if contrast.isdigit() and self.global_batch % int(contrast):
            near = nearest_of([n for n in divisors(self.global_batch) if n > 1], int(contrast))
            raise ConfigError(
                f"objective.contrast={contrast}: must divide global_batch={self.global_batch}; the nearest are {near}"
            )
        for tower, layers in (("image", self.model.vision_layers), ("text", self.model.text_layers)):
            for entry in self.optim.freeze:
                if entry.startswith(f"{tower}:") and int(entry.partition(":")[2]) > layers:
                    raise ConfigError(
                        f"optim.freeze: {entry} names more than the {layers} blocks of the tower; give {tower}"
                    )
        if self.device.graphs and self.engine.activation_checkpointing:
            raise ConfigError(
                "device.graphs=true: a captured graph cannot be ended before each block is recomputed, as "
                "engine.activation_checkpointing=true needs in lazy execution; set one of them to false"
            )
        if self.validation.wanted and self.data.validation is None:
            raise ConfigError(f"validation.every={self.validation.every}: needs a corpus in data.validation")
        if self.checkpoint.best and not self.validation.wanted:
            raise ConfigError(f"checkpoint.best={self.checkpoint.best}: needs validations; set validation.every")
        if self.validation.patience and not self.checkpoint.best:
            raise ConfigError(
                f"validation.patience={self.validation.patience}: needs the metric to wait for in checkpoint.best"
            )

    def _check_lanes(self) -> None:
        lanes, batch, fewest = self.data.lanes, self.global_batch, self.min_samples_per_lane
        if batch < fewest:
            raise ConfigError(f"global_batch={batch}: one sample has no ITM negative; use at least {fewest}")
        if batch % lanes:
            raise ConfigError(
                f"data.lanes={lanes}: must divide global_batch={batch}; the nearest are {self._near_lanes()}"
            )
        if batch // lanes < fewest:
            raise ConfigError(
                f"data.lanes={lanes}: gives one sample per lane and step, and so no ITM negative; the nearest that give more are "
                f"{self._near_lanes()}, or set objective.itm_negatives=hard"
            )

    def _near_lanes(self) -> str:
        """Numbers of lanes that all other keys would take."""
        shares = {n: self.global_batch // n for n in divisors(self.global_batch)}
        fitting = [n for n, s in shares.items() if s >= self.min_samples_per_lane and not (self.micro_batch or 0) % s]
        return nearest_of(fitting, self.data.lanes)

    @property
    def device_here(self) -> DeviceConfig:
        """`device` with the folder of compiled graphs."""
        if self.device.recipe_cache != "auto":
            return self.device
        return replace(self.device, recipe_cache=str(Path(self.run_dir) / "recipes"))

    @property
    def samples_per_lane(self) -> int:
        """Samples per lane and step."""
        return self.global_batch // self.data.lanes

    @property
    def min_samples_per_lane(self) -> int:
        """Fewest samples per lane and step."""
        return self.objective.min_samples_per_lane if self.task == "pretraining" else 1

    @property
    def text_lengths(self) -> list[int]:
        """Lengths to which the texts of a micro-batch may be padded, ascending."""
        longest = self.model.max_text_len
        return [*(length for length in self.data.text_buckets if length < longest), longest]

    @property
    def shapes(self) -> list[Shape]:
        """Of the run's micro-batches; the last takes most memory."""
        return [Shape(tokens, patches) for patches in self.model.patch_counts for tokens in self.text_lengths]

    @property
    def on_whole_images(self) -> "TrainConfig":
        """The run without `model.patch_dropout`."""
        return replace(self, model=replace(self.model, patch_dropout=0.0))

    def rank_batch(self, world_size: int) -> tuple[int, int]:
        """(micro-batch, micro-batches per step) of each of `world_size` ranks; ConfigError if they do not divide evenly."""
        if self.data.lanes % world_size:
            shares = {n: self.global_batch // n for n in divisors(self.data.lanes)}
            fitting = [n for n, share in shares.items() if not share % (self.micro_batch or share)]
            raise ConfigError(
                f"data.lanes={self.data.lanes}: must be a multiple of the {world_size} ranks; start "
                f"{nearest_of(fitting, world_size, ' or ')} ranks, or change data.lanes"
            )
        per_rank = self.global_batch // world_size
        micro = self.micro_batch or per_rank
        if per_rank % micro:
            raise ConfigError(
                f"micro_batch={micro}: must divide the {per_rank} samples that each of {world_size} ranks has per step"
            )
        return micro, per_rank // micro
