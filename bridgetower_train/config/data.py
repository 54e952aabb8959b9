"""The training data and its order."""

import math
from dataclasses import dataclass, field
from typing import Any

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
    captions: Any = "all"
    """`all`: an epoch is every image with every caption once; `one`: every image once with one of its captions; or the shares of
    kinds of captions, as {alt: 0.5, synthetic: 0.5}: every image once, with a caption of a kind drawn by these shares among the
    kinds that it has. An image with none of these kinds shows one of all its captions."""
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
    """Text lengths, ascending: a micro-batch is padded to the smallest that fits its longest text, at most to
    `model.max_text_len`. A length costs a graph where steps are compiled."""
    square: str = "crop"
    """How an image becomes a square of `model.image_size`: `crop`: its shorter edge is resized to it, and the centre is cut out;
    `squash`: the whole image is resized to it, as in all published evaluations of fine-tuned models."""
    augment: str = "none"
    """`none`: as `square` says; `randaugment`: random crop, flip and RandAugment(2, 7), for fine-tuning; `randaugment_vqa`:
    random crop and RandAugment(2, 5) of operations that change neither colours nor sides. `square` is then that of validation
    and evaluation."""
    max_bad_fraction: float = 0.01
    """Fraction of unreadable records at which the run stops."""
    cache_dir: str | None = None
    """Folder that caches the shards of a remote root; required for one."""
    cache_gb: float = 100.0
    """Size of that cache, 10^9 bytes; the least recently used shards are evicted."""
    retry_hours: float = 1.0
    """Hours for which a run waits, a line a minute, for a remote root that cannot be reached any more; at its start, seconds."""
    cache_shared: bool = False
    """Other users of the host share the cache, and are trusted not to change its files; otherwise it is closed to them."""

    def __post_init__(self) -> None:
        self._check_captions()
        one_of("data.square", self.square, ("crop", "squash"))
        one_of("data.augment", self.augment, ("none", "randaugment", "randaugment_vqa"))
        one_of("data.shuffle", self.shuffle, ("windows", "whole"))
        at_least("data.lanes", self.lanes, 1)
        at_least("data.shuffle_window", self.shuffle_window, 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.prefetch", self.prefetch, 1)
        at_least("data.retry_hours", self.retry_hours, 0)
        for name, weight in self.corpora.items():
            at_least(f"data.corpora.{name}", weight, 0)
        if sorted(set(self.text_buckets)) != list(self.text_buckets):
            raise ConfigError(f"data.text_buckets={self.text_buckets}: must be ascending and distinct")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction={self.max_bad_fraction}: must be in [0, 1]")

    def _check_captions(self) -> None:
        if isinstance(self.captions, str):
            one_of("data.captions", self.captions, ("all", "one"))
        elif not isinstance(self.captions, dict) or not self.captions or {*map(type, self.captions)} != {str}:
            raise ConfigError(
                f"data.captions={self.captions}: must be all, one, or shares of kinds, as {{alt: 0.5, synthetic: 0.5}}"
            )
        for kind, share in self.kind_shares.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < math.inf:
                raise ConfigError(f"data.captions.{kind}={share}: must be a share, a number from 0 on")
        if self.kind_shares and not any(self.kind_shares.values()):
            raise ConfigError(f"data.captions={self.captions}: must give a kind a share above 0")

    @property
    def kind_shares(self) -> dict[str, float]:
        """Kind of captions -> its share; empty where captions are drawn without regard to their kinds."""
        return {} if isinstance(self.captions, str) else dict(sorted(self.captions.items()))

    @property
    def per_epoch(self) -> str:
        """`all` or `one`: how many captions of an image an epoch shows."""
        return self.captions if isinstance(self.captions, str) else "one"

    @property
    def always_resizes(self) -> bool:
        """Whether images of every stored size are resized when they are read."""
        return self.square == "squash" or self.augment != "none"

    @property
    def trained(self) -> dict[str, float]:
        """The corpora that training shows, with their weights."""
        return {name: weight for name, weight in self.corpora.items() if weight}
