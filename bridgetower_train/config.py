"""Every key of a run: its meaning, unit, default and check.

Hydra composes these dataclasses from `configs/` and the command line; from then on they are frozen and plain. A check that
needs more than the configuration (the index, the tokenizer, the number of ranks) stands where that is known.
"""

import re
from dataclasses import dataclass, field

from bridgetower_train.errors import ConfigError, nearest

HEAD_WIDTH = 64
"""Width of one attention head, throughout CLIP, RoBERTa and BridgeTower."""

ROBERTA_POSITION_OFFSET = 2
"""RoBERTa numbers positions from `padding_idx + 1` = 2, so its table of 514 rows serves 512 tokens."""


def one_of(key: str, given: str, allowed: tuple[str, ...]) -> None:
    """ConfigError unless `given` is one of `allowed`."""
    if given not in allowed:
        raise ConfigError(f"{key}={given}: must be one of {', '.join(allowed)}{nearest(given, allowed)}")


def at_least(key: str, given: float, minimum: float) -> None:
    """ConfigError unless `given >= minimum`."""
    if not given >= minimum:
        raise ConfigError(f"{key}={given}: must be at least {minimum:g}")


@dataclass(frozen=True)
class Duration:
    """A length of training: `1000`, `1000 steps`, `2e6 samples`, `10 epochs`, or `10%` of the run."""

    amount: float
    unit: str

    @staticmethod
    def parse(key: str, text: str) -> "Duration":
        """Read `text`; ConfigError naming `key` where it is no duration."""
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(|steps?|samples?|epochs?|%)\s*", text)
        if match is None:
            raise ConfigError(f"{key}={text}: must be steps (1000), '2e6 samples', '10 epochs' or '10%' of the run")
        return Duration(float(match[1]), match[2].rstrip("s") or "step")

    def steps(self, global_batch: int, epoch_samples: int, run_steps: int = 0) -> int:
        """The same in optimizer steps, rounded up; `run_steps` is what a percentage refers to."""
        samples = {"sample": self.amount, "epoch": self.amount * epoch_samples}
        if self.unit == "%":
            return round(self.amount / 100 * run_steps)
        if self.unit == "step":
            return int(self.amount)
        return -int(-samples[self.unit] // global_batch)


@dataclass(frozen=True)
class ModelConfig:
    """The architecture (paper section 3). The defaults are BridgeTower base."""

    image_size: int = 288
    """Edge of the square input picture, pixels; a multiple of `patch_size`."""
    patch_size: int = 16
    """Edge of one image patch, pixels."""
    width: int = 768
    """Width of both towers and of the fusion encoder; a multiple of 64, the width of one attention head."""
    vision_layers: int = 12
    """Transformer blocks in the image tower."""
    text_layers: int = 12
    """Transformer blocks in the text tower."""
    fusion_layers: int = 6
    """Fusion layers (K); layer k is bridged to the k-th of the top K blocks of both towers."""
    max_text_len: int = 50
    """Tokens per text with `<s>` and `</s>`; longer texts are cut, shorter ones padded."""
    text_positions: int = 514
    """Rows of RoBERTa's position table; two more than the longest text."""
    vocab_size: int | None = None
    """Rows of the word table; null takes the tokenizer's size."""
    dropout: float = 0.1
    """Dropout of hidden states and attention in the text tower and the fusion encoder (the image tower has none)."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every layer norm."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            lower = self.image_size // self.patch_size * self.patch_size
            raise ConfigError(
                f"model.image_size={self.image_size}: must be a multiple of model.patch_size={self.patch_size}; "
                f"the nearest are {lower} and {lower + self.patch_size}"
            )
        if self.width % HEAD_WIDTH or self.width <= 0:
            raise ConfigError(f"model.width={self.width}: must be a multiple of {HEAD_WIDTH}")
        for name in ("vision_layers", "text_layers"):
            if getattr(self, name) < self.fusion_layers:
                raise ConfigError(
                    f"model.{name}={getattr(self, name)}: must be at least model.fusion_layers={self.fusion_layers}, "
                    "since each fusion layer is bridged to a block of its own"
                )
        at_least("model.fusion_layers", self.fusion_layers, 1)
        at_least("model.max_text_len", self.max_text_len, 4)
        if self.max_text_len > self.text_positions - ROBERTA_POSITION_OFFSET:
            raise ConfigError(
                f"model.max_text_len={self.max_text_len}: the position table holds "
                f"{self.text_positions - ROBERTA_POSITION_OFFSET} tokens; lower it or raise model.text_positions"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout}: must be in [0, 1)")

    @property
    def heads(self) -> int:
        """Attention heads of every layer."""
        return self.width // HEAD_WIDTH

    @property
    def image_tokens(self) -> int:
        """Image tokens with the class token (N)."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class DataConfig:
    """Where the pairs come from and in which order."""

    root: str = "???"
    """Folder or fsspec URL that holds one folder per corpus."""
    corpora: dict[str, float] = field(default_factory=dict)
    """Corpus folder -> how often it is passed per epoch (1 whole pass; 0.5 half of it, another half each epoch; 0 not at all)."""
    validation: str | None = None
    """Corpus folder that training never shows, for validation and `bridgetower eval`; null: none."""
    captions: str = "all"
    """`all`: an epoch is every (image, caption) pair once; `one`: every image once with one of its captions."""
    lanes: int = 8
    """Parts into which each epoch is cut; each step takes global_batch / lanes samples of every lane. A
    multiple of the ranks."""
    shuffle_window: int = 4096
    """Samples of a lane that are permuted together, after the shards have been."""
    workers: int = 0
    """Loader processes per rank; 0 loads in the training process. Changes nothing in the order."""
    prefetch: int = 4
    """Micro-batches that each worker holds ready."""
    text_buckets: list[int] = field(default_factory=list)
    """Text lengths, ascending: a micro-batch is padded to the smallest that holds its longest text; empty: max_text_len."""
    augment: str = "none"
    """`none`: the centre of each picture; `randaugment`: crop, flip and RandAugment(2, 7), for fine-tuning."""
    max_bad_fraction: float = 0.01
    """Share of records that may be unreadable before the run stops."""
    cache_dir: str | None = None
    """Where shards of a remote root are kept; needed for one."""
    cache_gb: float = 100.0
    """Size of that cache, 10^9 bytes; the least recently used shard goes first."""

    def __post_init__(self) -> None:
        one_of("data.captions", self.captions, ("all", "one"))
        one_of("data.augment", self.augment, ("none", "randaugment"))
        at_least("data.lanes", self.lanes, 1)
        at_least("data.shuffle_window", self.shuffle_window, 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.prefetch", self.prefetch, 1)
        for name, weight in self.corpora.items():
            at_least(f"data.corpora.{name}", weight, 0)
        if sorted(set(self.text_buckets)) != list(self.text_buckets):
            raise ConfigError(f"data.text_buckets={self.text_buckets}: must ascend")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction={self.max_bad_fraction}: must be in [0, 1]")


@dataclass(frozen=True)
class ObjectiveConfig:
    """The losses and their weights; a loss of weight 0 is not computed."""

    mlm: float = 1.0
    """Weight of masked language modelling."""
    itm: float = 1.0
    """Weight of image-text matching."""
    itc: float = 1.0
    """Weight of image-text contrast."""
    mlm_probability: float = 0.15
    """Share of the real tokens that are masked."""
    itm_negatives: str = "random"
    """`random`: an image of the batch; `hard`: drawn in proportion to the ITC similarity (needs itc > 0)."""
    itc_form: str = "hf"
    """`hf`: the published checkpoint's three one-directional terms; `symmetric`: both directions of the three;
    `ms`: the two-way term of the two towers."""
    itc_dim: int = 512
    """Width of the contrastive embeddings (512 in the published checkpoint, 256 in Microsoft's code)."""

    def __post_init__(self) -> None:
        for name in ("mlm", "itm", "itc"):
            at_least(f"objective.{name}", getattr(self, name), 0)
        if self.mlm + self.itm + self.itc == 0:
            raise ConfigError("objective: at least one of mlm, itm and itc must be above 0")
        if self.itc_form == "ms" and not self.mlm and not self.itm:
            raise ConfigError(
                "objective.itc_form=ms: alone it trains no fusion encoder; set objective.mlm or itm above 0"
            )
        one_of("objective.itm_negatives", self.itm_negatives, ("random", "hard"))
        one_of("objective.itc_form", self.itc_form, ("hf", "symmetric", "ms"))
        at_least("objective.itc_dim", self.itc_dim, 1)
        if not 0 < self.mlm_probability < 1:
            raise ConfigError(f"objective.mlm_probability={self.mlm_probability}: must be between 0 and 1")
        if self.itm and self.itm_negatives == "hard" and not self.itc:
            raise ConfigError("objective.itm_negatives=hard: needs objective.itc above 0; set it or take random")


@dataclass(frozen=True)
class InitConfig:
    """What a new run starts from; what is not named is random. A run that resumes has its own checkpoint, and ignores this.

    Each is a local file or folder, or a name on the Hugging Face hub, which is asked for nothing else.
    """

    vision: str | None = None
    """CLIP for the image tower (ViT-B/16, ViT-L/14): Hugging Face's form, or OpenAI's own file. Positions are interpolated."""
    text: str | None = None
    """RoBERTa (base, large) for the text tower, with its tokenizer as `tokenizer`."""
    checkpoint: str | None = None
    """A whole BridgeTower: a published folder, Microsoft's .ckpt, a run folder, or one of its checkpoints."""

    def __post_init__(self) -> None:
        if self.checkpoint and (self.vision or self.text):
            raise ConfigError(
                f"init.checkpoint={self.checkpoint}: holds both towers; leave out init.vision and init.text"
            )

    @property
    def named(self) -> dict[str, str]:
        """Key -> value of what is named."""
        values = {"init.vision": self.vision, "init.text": self.text, "init.checkpoint": self.checkpoint}
        return {key: value for key, value in values.items() if value}


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its groups and its schedule."""

    lr: float = 1e-5
    """Peak learning rate of the two towers."""
    lr_fusion: float = 5e-5
    """Peak learning rate of the fusion encoder."""
    lr_heads: float = 5e-5
    """Peak learning rate of the heads of the losses."""
    beta1: float = 0.9
    """Decay of the mean of the gradient."""
    beta2: float = 0.98
    """Decay of the mean of its square."""
    eps: float = 1e-8
    """Added to the root of that square."""
    weight_decay: float = 0.01
    """Decoupled decay of matrices and word embeddings; biases, norms, positions, class token and temperature have none."""
    warmup: str = "10%"
    """Length of the linear warm-up: steps, '2e6 samples', '1 epochs' or a percentage of the run."""
    schedule: str = "linear"
    """Decay after the warm-up: `linear` or `cosine` to zero, or `constant`."""
    clip_norm: float = 0.0
    """Largest global norm of the gradient; 0 does not clip."""

    def __post_init__(self) -> None:
        for name in ("lr", "lr_fusion", "lr_heads", "eps", "weight_decay", "clip_norm"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)}: must be in [0, 1)")
        one_of("optim.schedule", self.schedule, ("linear", "cosine", "constant"))
        Duration.parse("optim.warmup", self.warmup)


@dataclass(frozen=True)
class EngineConfig:
    """How model, optimizer and ranks are held together."""

    name: str = "native"
    """`native`: one process, or DistributedDataParallel under torchrun."""
    activation_checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what is inside it: less memory, about a
    third more work."""


@dataclass(frozen=True)
class DeviceConfig:
    """Where it runs."""

    name: str = "auto"
    """`auto` takes HPU, else CUDA, else CPU, and says which and why."""
    precision: str = "fp32"
    """`fp32`, or `bf16`: fp32 weights under bf16 autocast; losses stay in fp32."""
    execution: str = "auto"
    """`eager`: operator by operator; `compile`: torch.compile the forward and backward pass; `lazy` (HPU alone): record a step's
    work and compile it as one graph. `auto` is lazy on HPU and eager elsewhere."""
    graphs: bool = False
    """Replay the forward and backward pass as one HPU graph per text length, in lazy execution: less work for the host, more
    memory for the results that stay in place. Pays where the card waits for the host, as with few pairs per card."""

    def __post_init__(self) -> None:
        one_of("device.precision", self.precision, ("fp32", "bf16"))
        one_of("device.execution", self.execution, ("auto", "lazy", "eager", "compile"))


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved and what is kept."""

    every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = 2
    """How many of the newest are kept; two at least, since the newest may turn out to be damaged."""
    keep_every: int = 0
    """Steps of which each multiple is kept for good; 0: none."""

    def __post_init__(self) -> None:
        at_least("checkpoint.every", self.every, 1)
        at_least("checkpoint.keep_last", self.keep_last, 2)
        at_least("checkpoint.keep_every", self.keep_every, 0)


@dataclass(frozen=True)
class ValidationConfig:
    """Evaluation on `data.validation` during the run."""

    every: int = 0
    """Steps between validations; 0: none."""
    samples: int = 1024
    """Pictures of the held-out corpus to take."""

    def __post_init__(self) -> None:
        at_least("validation.every", self.every, 0)
        at_least("validation.samples", self.samples, 2)


@dataclass(frozen=True)
class GuardsConfig:
    """When to give up."""

    max_skipped: int = 10
    """Updates skipped in a row, for a non-finite loss or gradient, after which the run stops."""
    max_recompiles: int = 20
    """Graphs that may be compiled in steps whose text lengths have been met before, after which the run stops."""

    def __post_init__(self) -> None:
        at_least("guards.max_skipped", self.max_skipped, 1)
        at_least("guards.max_recompiles", self.max_recompiles, 0)


@dataclass(frozen=True)
class ProfileConfig:
    """A look at where the time goes."""

    steps: str | None = None
    """First and last step to record, as in 10:15; null: none. Costs time and memory while it lasts."""

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
    """Weights & Biases; offline where no WANDB_API_KEY is set."""

    project: str | None = None
    """Project to report to; null: W&B is not used."""
    entity: str | None = None
    """Team or user that owns the project; null: the key's own."""


@dataclass(frozen=True)
class DistributedConfig:
    """The process group."""

    timeout: float = 1800.0
    """Seconds after which a collective that does not finish ends the run."""


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    run_dir: str = "???"
    """Folder of the run: configuration, metrics, checkpoints, report. Started again with the same folder, a run resumes."""
    seed: int = 0
    """Seed of everything random: weights, order, masks, negatives, dropout."""
    steps: str = "???"
    """Length of the run: optimizer steps (1000), '2e6 samples' or '10 epochs'."""
    global_batch: int = 64
    """Pairs per optimizer step, over all ranks."""
    micro_batch: int | None = None
    """Pairs per forward pass and rank; gradients accumulate up to the global batch. null: all of a rank's pairs at once."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    tokenizer: str = "???"
    """A `tokenizer.json` (or its folder) with RoBERTa's special tokens."""
    tensorboard: bool = True
    """Write TensorBoard files into the run folder."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        at_least("log_every", self.log_every, 1)
        at_least("global_batch", self.global_batch, 1)
        if self.steps != "???" and Duration.parse("steps", self.steps).unit == "%":
            raise ConfigError(f"steps={self.steps}: a percentage of what? Give steps, samples or epochs")
        if self.global_batch % self.data.lanes:
            divisors = [n for n in range(1, self.global_batch + 1) if self.global_batch % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - self.data.lanes))[:2])
            raise ConfigError(
                f"data.lanes={self.data.lanes}: must divide global_batch={self.global_batch}; "
                f"the nearest are {' and '.join(map(str, near))}"
            )
        if self.objective.itm and self.objective.itm_negatives == "random" and self.lane_batch < 2:
            raise ConfigError(
                f"data.lanes={self.data.lanes}: leaves one sample of a lane per step, and so no ITM negative; "
                f"take at most {self.global_batch // 2} lanes, or objective.itm_negatives=hard"
            )
        if self.micro_batch is not None and (self.micro_batch < 1 or self.micro_batch % self.lane_batch):
            raise ConfigError(
                f"micro_batch={self.micro_batch}: must be a multiple of global_batch / data.lanes = {self.lane_batch}, "
                "so that whole lanes stay together"
            )
        if self.data.text_buckets and self.data.text_buckets[-1] > self.model.max_text_len:
            raise ConfigError(
                f"data.text_buckets={self.data.text_buckets}: the longest exceeds model.max_text_len={self.model.max_text_len}"
            )
        if self.validation.every and self.data.validation is None:
            raise ConfigError(f"validation.every={self.validation.every}: needs a corpus in data.validation")

    @property
    def lane_batch(self) -> int:
        """Samples that each lane gives to a step."""
        return self.global_batch // self.data.lanes

    @property
    def text_lengths(self) -> list[int]:
        """Lengths to which the texts of a micro-batch may be padded, ascending."""
        return sorted({*self.data.text_buckets, self.model.max_text_len})

    def rank_batch(self, world_size: int) -> tuple[int, int]:
        """(micro-batch, micro-batches per step) of one of `world_size` ranks; ConfigError where they do not come out even."""
        if self.data.lanes % world_size:
            near = [n for n in range(1, self.data.lanes + 1) if self.data.lanes % n == 0]
            near = sorted(sorted(near, key=lambda n: abs(n - world_size))[:2])
            raise ConfigError(
                f"data.lanes={self.data.lanes}: must be a multiple of the {world_size} ranks; start "
                f"{' or '.join(map(str, near))} ranks, or change data.lanes"
            )
        per_rank = self.global_batch // world_size
        micro = self.micro_batch or per_rank
        if per_rank % micro:
            raise ConfigError(
                f"micro_batch={micro}: must divide the {per_rank} samples that each of {world_size} ranks has per step"
            )
        return micro, per_rank // micro
