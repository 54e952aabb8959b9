"""Which caption a sample shows where `data.captions` gives shares to kinds of captions: a function of the seed and its index."""

from collections.abc import Mapping, Sequence

from bridgetower_train import random
from bridgetower_train.errors import ConfigError, nearest


def draw_caption(kinds: Sequence[str], shares: Mapping[str, float], seed: int, sample_index: int) -> int | None:
    """The number of a caption of a record whose captions have these `kinds`; None where none has a share.

    Its kind is drawn by the shares of those that the record has, and then one of the captions of that kind, evenly.
    """
    there = [kind for kind, share in sorted(shares.items()) if share and kind in kinds]
    if not there:
        return None
    left = float(random.uniform(seed, "captions.kind", sample_index)) * sum(shares[kind] for kind in there)
    drawn = there[-1]
    for kind in there:
        left -= shares[kind]
        if left < 0:
            drawn = kind
            break
    numbers = [number for number, kind in enumerate(kinds) if kind == drawn]
    return numbers[int(random.below(seed, "captions.number", len(numbers), sample_index))]


def check_kinds(shares: Mapping[str, float], corpora: Mapping[str, Mapping[str, int]]) -> None:
    """ConfigError for a kind with a share that no corpus has; `corpora`: name -> kind -> captions."""
    known = {kind: None for kinds in corpora.values() for kind in kinds}
    for kind, share in shares.items():
        if share and kind not in known:
            there = f"the kinds there are: {', '.join(known)}" if known else "none of their captions has a kind"
            raise ConfigError(
                f"data.captions.{kind}: no caption of {', '.join(corpora)} is of this kind; {there}{nearest(kind, known)}; kinds "
                "come from `prep captions kinds=` or `prep index kinds=`"
            )
