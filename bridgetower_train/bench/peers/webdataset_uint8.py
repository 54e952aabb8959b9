"""Stock webdataset with Pillow, left at uint8 as our loader does."""

from collections.abc import Callable
from typing import Any

import webdataset
from PIL import Image
from torch import Tensor

from bridgetower_train.bench.peers import Batches, Source


def batches(source: Source) -> Batches:
    return pipeline(source, source.square)


def pipeline(source: Source, view: Callable[[Image.Image], Tensor]) -> Batches:
    """Shuffled, decoded, cut by `view`, tokenized."""

    def ids(meta: dict[str, Any]) -> Tensor:
        return source.ids(meta["captions"][0])

    shards = source.tars
    decoded = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pil")
    return iter(decoded.to_tuple("jpg", "json").map_tuple(view, ids).batched(source.batch, partial=False).repeat())
