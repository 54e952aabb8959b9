"""Optimizer, parallelism, device, checkpoints, validation, guards and reporting."""

import re
from dataclasses import dataclass, field

from bridgetower_train.config.checks import TEMPLATES, Duration, at_least, check_templates, one_of
from bridgetower_train.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its groups and its schedule."""

    lr: float = 1e-5
    """Peak learning rate of the two towers."""
    lr_fusion: float = 5e-5
    """Peak learning rate of the fusion encoder."""
    lr_heads: float = 5e-5
    """Peak learning rate of the task's heads."""
    lr_scale: float | None = None
    """Peak learning rate of the contrast's temperature, a logarithm, which a run of tiny rates cannot move; null: `lr`."""
    layer_decay: float = 1.0
    """Each block of a tower trains at this many times the rate of the block above it; the topmost at `lr`."""
    freeze: list[str] = field(default_factory=list)
    """Parts that keep their weights: `image`, `text`, `fusion`, `heads`, or `image:N` and `text:N` for the embeddings and the
    lowest N blocks of a tower. They have no gradients, activations or optimizer state."""
    beta1: float = 0.9
    """Decay of the running mean of the gradient."""
    beta2: float = 0.98
    """Decay of the running mean of its square."""
    eps: float = 1e-8
    """Added to the square root of the latter."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices and word embeddings; biases, norms, positions, class token and temperature have none."""
    warmup: str = "10%"
    """Length of the linear warm-up: steps, '2e6 samples', '1 epochs' or a percentage of the run."""
    schedule: str = "linear"
    """After the warm-up: `linear` or `cosine` decay to zero, `constant`, or `wsd`: constant, then linear to zero over `decay`."""
    decay: str = "20%"
    """Length of the decay of `wsd`: a duration as `warmup`."""
    clip_norm: float = 0.0
    """Gradients are clipped to this global norm; 0: no clipping."""
    moments: str = "fp32"
    """Precision in which AdamW keeps its two running means: `fp32`, or `bf16` (HPU only): 4 bytes less per parameter. Checkpoints
    hold fp32 in any case."""

    def __post_init__(self) -> None:
        for name in ("lr", "lr_fusion", "lr_heads", "eps", "weight_decay", "clip_norm"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)}: must be in [0, 1)")
        at_least("optim.lr_scale", self.lr_scale or 0, 0)
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"optim.layer_decay={self.layer_decay}: must be above 0 and at most 1")
        for entry in self.freeze:
            if not re.fullmatch(r"image(:[1-9]\d*)?|text(:[1-9]\d*)?|fusion|heads", entry):
                raise ConfigError(
                    f"optim.freeze: {entry!r} is not a part; give image, text, fusion, heads, or image:N and text:N for the "
                    "lowest N blocks"
                )
        one_of("optim.schedule", self.schedule, ("linear", "cosine", "constant", "wsd"))
        one_of("optim.moments", self.moments, ("fp32", "bf16"))
        Duration.parse("optim.warmup", self.warmup)
        Duration.parse("optim.decay", self.decay)


@dataclass(frozen=True)
class EngineConfig:
    """Parallelism: DDP or DeepSpeed ZeRO."""

    name: str = "native"
    """`native`: one process, or DistributedDataParallel under a launcher. `zero1`, `zero2`, `zero3`: DeepSpeed, which shards
    optimizer state (1), gradients (2) and parameters (3) across ranks; `zero0`: DeepSpeed without sharding. A run may resume
    under another engine and on another number of ranks."""
    activation_checkpointing: bool = False
    """Recompute each transformer block in the backward pass instead of keeping its activations: less memory, about a
    third more compute."""
    reduce: str = "buckets"
    """How `native` averages gradients over ranks: in `buckets`, while the backward pass goes on; or all of them at `once`, by a
    single all-reduce after it: fewer calls and less memory, but no overlap."""
    reduce_precision: str = "fp32"
    """Precision in which gradients are sent and summed: `fp32`, or `bf16`: half the bytes, each sum rounded to 8 bits."""

    def __post_init__(self) -> None:
        one_of("engine.reduce", self.reduce, ("buckets", "once"))
        one_of("engine.reduce_precision", self.reduce_precision, ("fp32", "bf16"))


@dataclass(frozen=True)
class DeviceConfig:
    """Where it runs."""

    name: str = "auto"
    """`auto` takes HPU, else CUDA, else CPU, and prints which and why; a card that is there but cannot be used is an error."""
    precision: str = "fp32"
    """`fp32`, or `bf16`: fp32 weights under bf16 autocast; losses stay in fp32."""
    execution: str = "auto"
    """`eager`: operator by operator; `compile`: torch.compile of each block, forward and backward; `lazy` (HPU only): a step is
    recorded and compiled as one graph. `auto`: on HPU lazy with the vendor's fork of torch, which alone has it, and compile with
    another build; on CUDA compile where, by what was measured on such a card, that pays within 2,000 steps of the run; otherwise
    eager. It prints which and why."""
    graphs: bool = False
    """Replay the forward and backward pass as one HPU graph per text length, in lazy execution: less host work, but more
    memory, since intermediate results stay allocated. Pays off where the card waits for the host: few samples per card."""

    recipe_cache: str | None = "auto"
    """Folder for compiled graphs (HPU only), so that a second start compiles nothing; ranks share it where the vendor's release
    allows. `auto`: `recipes` in the run folder; null: none. PT_HPU_RECIPE_CACHE_CONFIG in the environment comes first."""

    def __post_init__(self) -> None:
        one_of("device.precision", self.precision, ("fp32", "bf16"))
        one_of("device.execution", self.execution, ("auto", "lazy", "eager", "compile"))


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved and which are kept."""

    every: str = "1000"
    """Between checkpoints: steps, '2e6 samples', '1 epochs' or a percentage of the run; the last step is always saved."""
    best: str | None = None
    """Metric of the validation (`val_loss`, `val_rsum`, ...): the checkpoint where it was best is kept beside the newest, and is
    saved at that validation; null: none."""
    keep_last: int = 2
    """Newest checkpoints to keep; at least two, since the newest may turn out to be damaged."""
    keep_every: int = 0
    """Checkpoints at multiples of this many steps are never deleted; 0: none."""

    def __post_init__(self) -> None:
        if Duration.parse("checkpoint.every", self.every).amount <= 0:
            raise ConfigError(f"checkpoint.every={self.every}: must be above 0")
        at_least("checkpoint.keep_last", self.keep_last, 2)
        at_least("checkpoint.keep_every", self.keep_every, 0)


@dataclass(frozen=True)
class ValidationConfig:
    """Evaluation on `data.validation` during the run: always of the same images, whatever the ranks, lanes and seed."""

    every: str = "0"
    """Between validations: a duration as `checkpoint.every`; the last step is always validated. 0: none."""
    samples: int | None = 1024
    """Images of the held-out corpus to evaluate on, evenly spread; null: all."""
    batch: int = 64
    """Images that are computed at once on a rank; the losses compare at most so many with each other."""
    retrieval: str = "quick"
    """`quick`: R@1 of each image with its first caption, among 128. `full`: as `bridgetower eval retrieval`, R@1, R@5, R@10 and
    RSUM (at most 600) among all these images and their captions."""
    captions: int | None = 5
    """For `full`: at most so many captions of an image, the first ones; null: all."""
    kind: str | None = None
    """Captions of this kind alone, and images that have one, whatever kinds are trained on; null: those of all kinds."""
    rerank: int = 0
    """For `full`: the figures are of the best so many candidates of each query, re-ranked by image-text matching; 0: of the
    contrast alone."""
    zero_shot: str | None = None
    """Corpus folder of `prep classes` whose images are classified by their similarity to prompts, as by `eval zero_shot`; null:
    none."""
    templates: list[str] = field(default_factory=lambda: list(TEMPLATES))
    """The prompts, in which {} stands for the name of a class."""
    patience: int = 0
    """The run ends after so many validations in a row without a new best of `checkpoint.best`; 0: never."""

    def __post_init__(self) -> None:
        Duration.parse("validation.every", self.every)
        at_least("validation.samples", 2 if self.samples is None else self.samples, 2)
        at_least("validation.batch", self.batch, 2)
        one_of("validation.retrieval", self.retrieval, ("quick", "full"))
        at_least("validation.captions", 1 if self.captions is None else self.captions, 1)
        at_least("validation.rerank", self.rerank, 0)
        at_least("validation.patience", self.patience, 0)
        check_templates("validation.templates", self.templates)
        if self.rerank and self.retrieval == "quick":
            raise ConfigError(f"validation.rerank={self.rerank}: needs validation.retrieval=full")

    @property
    def wanted(self) -> bool:
        """Whether the run validates."""
        return Duration.parse("validation.every", self.every).amount > 0


@dataclass(frozen=True)
class GuardsConfig:
    """When to give up."""

    max_skipped: int = 10
    """Updates skipped in a row, for a loss or gradient that is not finite or by `max_grad_norm_ratio`, at which the run ends."""
    max_grad_norm_ratio: float = 0.0
    """An update is skipped whose gradient norm is more than so many times the mean of those of about the last 100 updates, once
    there were 50; 0: none."""
    max_recompiles: int = 20
    """The run stops when more graphs than this are compiled in steps whose text lengths have occurred before."""

    def __post_init__(self) -> None:
        at_least("guards.max_skipped", self.max_skipped, 1)
        if self.max_grad_norm_ratio and not self.max_grad_norm_ratio > 1:
            raise ConfigError(
                f"guards.max_grad_norm_ratio={self.max_grad_norm_ratio:g}: must be above 1, or 0 to skip no update for its norm"
            )
        at_least("guards.max_recompiles", self.max_recompiles, 0)


@dataclass(frozen=True)
class MetricsConfig:
    """What is logged beside the losses."""

    layers_every: int = 0
    """Steps between norms of weights, gradients and updates of each layer, a multiple of `log_every`; 0: never. At these steps
    the weights are held twice, under ZeRO a rank's share of them."""

    def __post_init__(self) -> None:
        at_least("metrics.layers_every", self.layers_every, 0)


@dataclass(frozen=True)
class ProfileConfig:
    """A trace by torch's profiler."""

    steps: str | None = None
    """First and last step to profile, as in 10:15; null: none. Slows these steps down and takes memory."""

    def __post_init__(self) -> None:
        if self.steps is not None:
            self.span()

    def span(self) -> tuple[int, int]:
        """(first, last) step."""
        match = re.fullmatch(r"(\d+):(\d+)", self.steps or "")
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"profile.steps={self.steps}: give the first and the last step, as in 10:15")
        return int(match[1]), int(match[2])


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, as its environment (WANDB_MODE, ...) and `wandb login` say; offline without a key."""

    project: str | None = None
    """Project to report to; null: W&B is not used."""
    entity: str | None = None
    """Team or user that owns the project; null: the API key's default."""


@dataclass(frozen=True)
class DistributedConfig:
    """The process group."""

    timeout: float = 1800.0
    """Seconds after which a rank that hangs while the others wait for it is reported and the run ends; one that waits for
    data has `data.retry_hours` too. A lost rank ends the run at once."""

    def __post_init__(self) -> None:
        at_least("distributed.timeout", self.timeout, 1)
