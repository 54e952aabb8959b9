"""The training data and its order."""

from dataclasses import dataclass, field

from bridgetower_train.config.checks import at_least, one_of
from bridgetower_train.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from, and their order. A sample is an image with one of its captions."""

    root: str = "???"
    """Folder or fsspec URL with one folder per corpus."""
    follow_links: bool = False
    """Read shards that are links to files outside their corpus folder, as those of DVC, git-annex and the hub's cache are. The
    corpus folders themselves may always be links."""
    corpora: dict[str, float] = field(default_factory=dict)
    """Corpus folder -> passes per epoch (1: once; 0.5: half of it, and the other half in the next epoch; 0: not at all)."""
    validation: str | None = None
    """Corpus folder for validation and `bridgetower eval`, which is not trained on; null: none."""
    captions: str = "all"
    """`all`: an epoch is every image with every caption once; `one`: every image once with one of its captions."""
    lanes: int = 8
    """Contiguous parts of equal length into which each epoch is cut, each read by one rank; a step takes
    global_batch / lanes samples from every lane. A multiple of the number of ranks."""
    shuffle: str = "windows"
    """`windows`: shards are shuffled, and then windows of each lane; `whole`: all samples of an epoch at once, so that a batch
    and its negatives come from images far apart: for up to 2^24 samples on a local disk."""
    shuffle_window: int = 4096
    """Samples of a lane that are shuffled together, after the shards have been shuffled."""
    workers: int = 0
    """Loader processes per rank; 0 loads in the training process. The order does not depend on it."""
    prefetch: int = 4
    """Micro-batches that each worker keeps ready."""
    text_buckets: list[int] = field(default_factory=list)
    """Text lengths, ascending: a micro-batch is padded to the smallest that fits its longest text; empty: max_text_len."""
    square: str = "crop"
    """How an image becomes a square of `model.image_size`: `crop`: its shorter edge is resized to it, and the centre is cut out;
    `squash`: the whole image is resized to it, as in all published evaluations of fine-tuned models."""
    augment: str = "none"
    """`none`: as `square` says; `randaugment`: random crop, flip and RandAugment(2, 7), for fine-tuning. `square` is then that
    of validation and evaluation."""
    max_bad_fraction: float = 0.01
    """Fraction of unreadable records at which the run stops."""
    cache_dir: str | None = None
    """Folder that caches the shards of a remote root; required for one."""
    cache_gb: float = 100.0
    """Size of that cache, 10^9 bytes; the least recently used shards are evicted."""
    cache_shared: bool = False
    """Other users of the host share the cache, and are trusted not to change its files; otherwise it is closed to them."""

    def __post_init__(self) -> None:
        one_of("data.captions", self.captions, ("all", "one"))
        one_of("data.square", self.square, ("crop", "squash"))
        one_of("data.augment", self.augment, ("none", "randaugment"))
        one_of("data.shuffle", self.shuffle, ("windows", "whole"))
        at_least("data.lanes", self.lanes, 1)
        at_least("data.shuffle_window", self.shuffle_window, 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.prefetch", self.prefetch, 1)
        for name, weight in self.corpora.items():
            at_least(f"data.corpora.{name}", weight, 0)
        if sorted(set(self.text_buckets)) != list(self.text_buckets):
            raise ConfigError(f"data.text_buckets={self.text_buckets}: must be ascending and distinct")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction={self.max_bad_fraction}: must be in [0, 1]")

    @property
    def always_resizes(self) -> bool:
        """Whether images of every stored size are resized when they are read."""
        return self.square == "squash" or self.augment != "none"

    @property
    def trained(self) -> dict[str, float]:
        """The corpora that training shows, with their weights."""
        return {name: weight for name, weight in self.corpora.items() if weight}
