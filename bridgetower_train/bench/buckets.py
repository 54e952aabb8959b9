"""`bridgetower bench buckets`: what padding texts to buckets instead of the longest length saves, from a corpus's real captions.

A micro-batch of B texts fits a bucket when all of them do: with the share F of the captions that fit, that happens with F^B. A
step of R ranks is as slow as the longest of its micro-batches, F^(B R).
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from bridgetower_train.bench.kit import as_run
from bridgetower_train.config import ModelConfig, ObjectiveConfig, at_least
from bridgetower_train.data.shards import BadRecordError, open_corpus
from bridgetower_train.data.text import CaptionTokenizer
from bridgetower_train.errors import ConfigError, DataError
from bridgetower_train.tasks import step_flops

QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class BenchBucketsConfig:
    """What is counted."""

    corpus: str = "???"
    """Folder of a prepared corpus, as in data/coco."""
    tokenizer: str = "???"
    """As in training."""
    records: int = 10000
    """Records to read, evenly spread."""
    buckets: list[int] = field(default_factory=lambda: [16, 24, 32])
    """As data.text_buckets; model.max_text_len follows."""
    micro_batches: list[int] = field(default_factory=lambda: [1, 4, 16, 48])
    """Pairs per forward pass."""
    ranks: list[int] = field(default_factory=lambda: [1, 8, 512])
    """Numbers of ranks that wait for each other."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        at_least("records", self.records, 1)
        lengths = [*self.buckets, self.model.max_text_len]
        if sorted(set(lengths)) != lengths:
            raise ConfigError(f"buckets={self.buckets}: must ascend and stay below model.max_text_len={lengths[-1]}")


def run(config: BenchBucketsConfig) -> int:
    """Print the lengths of the captions, and the share of text tokens and of FLOPs that buckets would save."""
    text = CaptionTokenizer.load(config.tokenizer)
    model = replace(config.model, vocab_size=config.model.vocab_size or text.vocab_size)
    lengths = caption_lengths(config, text)
    points = ", ".join(f"{q:.0%} up to {np.quantile(lengths, q):.0f}" for q in QUANTILES)
    print(
        f"captions  {len(lengths):,} of {config.corpus}, tokens with <s> and </s>: {points}; mean {lengths.mean():.1f}"
    )
    paddings = np.array([*config.buckets, model.max_text_len])
    work = np.array([step_flops(as_run(config, replace(model, max_text_len=int(n)))) for n in paddings])
    print(f"graphs    {len(paddings)}: texts of {', '.join(map(str, paddings))} tokens")
    print(f"\n{'pairs':>8}{'ranks':>8}{'tokens saved':>14}{'FLOPs saved':>13}   share of steps in each bucket")
    for batch in config.micro_batches:
        for ranks in config.ranks:
            share = bucket_shares(lengths, paddings, batch * ranks)
            tokens, flops = (1 - (share * cost).sum() / cost[-1] for cost in (paddings, work))
            print(f"{batch:8}{ranks:8}{tokens:14.1%}{flops:13.1%}   {'  '.join(f'{s:.0%}' for s in share)}")
    return 0


def caption_lengths(config: BenchBucketsConfig, text: CaptionTokenizer) -> npt.NDArray[np.int64]:
    """Tokens of each caption that was read, cut at `model.max_text_len`."""
    root, _, name = config.corpus.rstrip("/").rpartition("/")
    corpus = open_corpus(root or ".", name, None)
    rows = np.linspace(0, len(corpus.index), min(config.records, len(corpus.index)), endpoint=False).astype(int)
    captions: list[str] = []
    for row in rows.tolist():
        try:
            captions += corpus.read(row).captions
        except BadRecordError:
            continue
    if not captions:
        raise DataError(f"{config.corpus}: no record of it can be read")
    _, mask = text.encode(captions, config.model.max_text_len)
    lengths: npt.NDArray[np.int64] = mask.sum(dim=1).numpy()
    return lengths


def bucket_shares(
    lengths: npt.NDArray[np.int64], paddings: npt.NDArray[np.int64], texts: int
) -> npt.NDArray[np.float64]:
    """Probability of each of `paddings` to be the smallest that holds `texts` independent captions."""
    fits = np.array([(lengths <= padding).mean() for padding in paddings]) ** texts
    shares: npt.NDArray[np.float64] = np.diff(fits, prepend=0.0)
    return shares
