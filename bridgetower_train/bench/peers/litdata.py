"""LitData: chunks that `optimize` writes, decoded by torchvision."""

from typing import Any

import torch
from litdata import Jpeg, StreamingDataLoader, StreamingDataset, optimize
from torch import Tensor

from bridgetower_train.bench.peers import Batches, Source


def batches(source: Source) -> Batches:
    folder = str(source.folder / "chunks")
    optimize(_sample, list(source.records()), folder, chunk_bytes="64MB", num_workers=1, verbose=False)

    def view(sample: dict[str, Any], *_: Any) -> tuple[Tensor, Tensor]:
        return source.square_of(sample["image"]), source.ids(sample["caption"])

    dataset = StreamingDataset(folder, shuffle=True, drop_last=True, transform=view)
    loader = StreamingDataLoader(dataset, batch_size=source.batch, num_workers=0)
    while True:
        for images, ids in loader:
            yield torch.as_tensor(images), ids


def _sample(record: tuple[bytes, str]) -> dict[str, Any]:
    image, caption = record
    return {"image": Jpeg(bytes=image, max_quality=None), "caption": caption}
