"""The architecture, its losses, and the initial weights."""

from dataclasses import dataclass, replace

from bridgetower_train.config.checks import Duration, at_least, one_of
from bridgetower_train.errors import ConfigError

HEAD_WIDTH = 64
"""Width of one attention head in CLIP, RoBERTa and BridgeTower."""

PAD_ID = 1
"""Id of `<pad>` in every RoBERTa model, and the row of its position table for padding."""

ROBERTA_POSITION_OFFSET = PAD_ID + 1
"""RoBERTa numbers the positions of real tokens from here on, so its table of 514 rows serves 512 tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """The architecture (paper section 3). The defaults are BridgeTower base."""

    image_size: int = 288
    """Edge of the square input image, pixels; a multiple of `patch_size`."""
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
    """Tokens per text with `<s>` and `</s>`; longer texts are truncated, shorter ones padded."""
    text_positions: int = 514
    """Rows of RoBERTa's position table: two more than the longest possible text."""
    vocab_size: int | None = None
    """Rows of the word embeddings; null takes the tokenizer's size."""
    dropout: float = 0.1
    """Dropout of hidden states and attention in the text tower and the fusion encoder (the image tower has none)."""
    layer_norm_eps: float = 1e-5
    """Epsilon of every layer norm, added to the variance."""
    init_std: float = 0.02
    """Standard deviation of the initial weights in the layers of the text tower and of the fusion encoder; published: 0.02, at a
    width of 768. A narrow model hardly tells texts apart that differ by a word, at first, unless it is larger (docs/tasks.md)."""
    patch_dropout: float = 0.0
    """Share of the patches of an image that training leaves out, drawn for each sample (FLIP, Li et al., 2023): less work for the
    image tower and the fusion encoder. Not published for this model. Validation and evaluation see all patches."""
    patch_dropout_until: str = "95%"
    """Patches are left out until this much of the run is over: a share, steps, samples or epochs. The rest trains on whole
    images, and takes their memory."""

    def __post_init__(self) -> None:
        at_least("model.patch_size", self.patch_size, 1)
        at_least("model.image_size", self.image_size, 1)
        if self.image_size % self.patch_size:
            lower = max(1, self.image_size // self.patch_size) * self.patch_size
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
                    "since each fusion layer is bridged to its own block"
                )
        at_least("model.fusion_layers", self.fusion_layers, 1)
        at_least("model.max_text_len", self.max_text_len, 4)
        if self.max_text_len > self.text_positions - ROBERTA_POSITION_OFFSET:
            raise ConfigError(
                f"model.max_text_len={self.max_text_len}: the position table is for at most "
                f"{self.text_positions - ROBERTA_POSITION_OFFSET} tokens; lower it or raise model.text_positions"
            )
        if not self.init_std > 0:
            raise ConfigError(f"model.init_std={self.init_std}: must be greater than 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout}: must be in [0, 1)")
        if not 0 <= self.patch_dropout < 1:
            raise ConfigError(f"model.patch_dropout={self.patch_dropout}: must be in [0, 1)")
        Duration.parse("model.patch_dropout_until", self.patch_dropout_until)

    def with_vocabulary(self, tokens: int) -> "ModelConfig":
        """A copy whose `vocab_size` fits a tokenizer of `tokens` tokens; ConfigError if a smaller one is configured."""
        if self.vocab_size is not None and self.vocab_size < tokens:
            raise ConfigError(
                f"model.vocab_size={self.vocab_size}: the tokenizer has {tokens} tokens; raise it, or change tokenizer"
            )
        return replace(self, vocab_size=self.vocab_size or tokens)

    @property
    def heads(self) -> int:
        """Attention heads of every layer."""
        return self.width // HEAD_WIDTH

    @property
    def image_tokens(self) -> int:
        """Tokens of a whole image, including the class token (N)."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def kept_patches(self) -> int | None:
        """Patches of an image that are left by `patch_dropout`; None: it is never in force."""
        if not self.patch_dropout or not self._patch_dropout_until.amount:
            return None
        return max(1, round((self.image_tokens - 1) * (1 - self.patch_dropout)))

    @property
    def trained_tokens(self) -> int:
        """Image tokens of a training step: of most of them, where patches are left out."""
        return self.image_tokens if self.kept_patches is None else self.kept_patches + 1

    @property
    def patch_counts(self) -> list[int | None]:
        """Patches of an image that steps of a run have, ascending; None: all of them."""
        if self.kept_patches is None:
            return [None]
        return [self.kept_patches, *([None] if self._patch_dropout_until != Duration(100, "%") else [])]

    @property
    def _patch_dropout_until(self) -> Duration:
        return Duration.parse("model.patch_dropout_until", self.patch_dropout_until)


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
    """Fraction of the real tokens that are masked."""
    itm_negatives: str = "random"
    """`random`: each text with any other image of its lane; `hard`: each text with another image and each image with another
    text of the micro-batch, drawn in proportion to the ITC similarity (needs itc > 0), three pairs a sample instead of two."""
    hard_after: str = "0%"
    """Hard negatives are drawn uniformly until this much of the run is over: a share ('20%'), steps, samples or epochs. From
    random weights they teach nothing; from pretrained ones, 0% is published."""
    itc_form: str = "hf"
    """`hf`: the published checkpoint's three one-directional terms; `symmetric`: both directions of the three;
    `ms`: the two-directional term of the two towers."""
    same_image: str = "exclude"
    """What other captions of a sample's image are in the contrast: `exclude`: neither right nor wrong; `positive`: as right as
    its own, as in ALBEF and Microsoft's fine-tuning."""
    contrast: str = "global"
    """Which pairs are compared: `global`: those of the whole global batch; a number N that divides it: every N consecutive ones,
    whichever ranks and micro-batches have them; `micro_batch`: those of each micro-batch. If a group spans several micro-batches
    of a rank, each is first embedded without a gradient, about a third more work."""
    itc_dim: int = 512
    """Width of the contrastive embeddings (512 in the published checkpoint, 256 in Microsoft's code)."""

    def __post_init__(self) -> None:
        for name in ("mlm", "itm", "itc"):
            at_least(f"objective.{name}", getattr(self, name), 0)
        if self.mlm + self.itm + self.itc == 0:
            raise ConfigError("objective: at least one of mlm, itm and itc must be above 0")
        if self.itc_form == "ms" and not self.mlm and not self.itm:
            raise ConfigError(
                "objective.itc_form=ms: does not train the fusion encoder alone; set objective.mlm or itm above 0"
            )
        one_of("objective.itm_negatives", self.itm_negatives, ("random", "hard"))
        one_of("objective.same_image", self.same_image, ("exclude", "positive"))
        Duration.parse("objective.hard_after", self.hard_after)
        one_of("objective.itc_form", self.itc_form, ("hf", "symmetric", "ms"))
        if self.contrast not in ("global", "micro_batch") and not (self.contrast.isdigit() and int(self.contrast) > 1):
            raise ConfigError(
                f"objective.contrast={self.contrast}: give global, micro_batch, or a number of pairs from 2 on"
            )
        at_least("objective.itc_dim", self.itc_dim, 1)
        if not 0 < self.mlm_probability < 1:
            raise ConfigError(f"objective.mlm_probability={self.mlm_probability}: must be between 0 and 1")
        if self.itm and self.itm_negatives == "hard" and not self.itc:
            raise ConfigError("objective.itm_negatives=hard: needs objective.itc above 0; set it, or use random")

    @property
    def min_samples_per_lane(self) -> int:
        """Fewest samples per lane and step: a random ITM negative is another sample of the same lane."""
        return 2 if self.itm > 0 and self.itm_negatives == "random" else 1


@dataclass(frozen=True)
class ClassifierConfig:
    """The tasks that choose among answers or classes: everything but pretraining."""

    labels: int | None = None
    """Answers or classes to choose among; null: as many as the corpora name, in `answers.json` or `classes.json`."""
    several: bool | None = None
    """task=classes: a sample may have several classes, or none; null: as the corpora say."""
    premise: bool = False
    """task=snli_ve: the text is the premise, a caption of the image, and the hypothesis, as in Microsoft's code; false: the
    hypothesis alone, as the task is defined."""
    blind: bool = False
    """The model sees grey images alone, in training and in evaluation: what it then gets right, the texts tell without them."""

    def __post_init__(self) -> None:
        at_least("classifier.labels", 2 if self.labels is None else self.labels, 1)


@dataclass(frozen=True)
class InitConfig:
    """Initial weights of a new run; parts that are not given start at random. A resumed run reads none, and refuses others.

    Each value is a local file or folder, or else a name on the Hugging Face hub; NAME@REVISION takes a commit, tag or branch.
    """

    vision: str | None = None
    """CLIP for the image tower (ViT-B/16, ViT-L/14): Hugging Face's format or OpenAI's file. Positions are interpolated."""
    text: str | None = None
    """RoBERTa (base, large) for the text tower; `tokenizer` must be its tokenizer."""
    checkpoint: str | None = None
    """A complete BridgeTower: a published folder, Microsoft's .ckpt, a run folder, or one of its checkpoints."""
    optimizer: bool = False
    """Take the optimizer's state over too, to continue the run in `checkpoint` on changed data or with a changed schedule. Heads
    that it did not have begin with moments of zero."""

    def __post_init__(self) -> None:
        if self.optimizer and not self.checkpoint:
            raise ConfigError("init.optimizer=true: needs the run to continue; name it in init.checkpoint")
        if self.checkpoint and (self.vision or self.text):
            raise ConfigError(f"init.checkpoint={self.checkpoint}: has both towers; remove init.vision and init.text")

    @property
    def named(self) -> dict[str, str]:
        """Key -> value of those that are given."""
        values = {"init.vision": self.vision, "init.text": self.text, "init.checkpoint": self.checkpoint}
        return {key: value for key, value in values.items() if value}
