"""The pairs and their order."""

from dataclasses import dataclass, field

from bridgetower_train.config.checks import at_least, one_of
from bridgetower_train.errors import ConfigError


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
    """`none`: the centre of each image; `randaugment`: crop, flip and RandAugment(2, 7), for fine-tuning."""
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
