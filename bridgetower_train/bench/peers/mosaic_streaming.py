"""MosaicML Streaming: MDS shards, decoded by Pillow."""

from pathlib import Path
from typing import Any

from PIL import Image
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from torch import Tensor

from bridgetower_train.bench.peers import Batches, Source


class _Pairs(StreamingDataset):  # type: ignore[misc]
    source: Source

    def __getitem__(self, at: Any) -> tuple[Tensor, Tensor]:
        sample = super().__getitem__(at)
        return self.source.square(sample["image"]), self.source.ids(sample["caption"])


def batches(source: Source) -> Batches:
    folder = source.folder / "mds"
    _write(source, folder)
    dataset = _Pairs(local=str(folder), shuffle=True, batch_size=source.batch)
    dataset.source = source
    loader = StreamingDataLoader(dataset, batch_size=source.batch, num_workers=0, drop_last=True)
    while True:
        yield from loader


def _write(source: Source, folder: Path) -> None:
    file = source.folder / "image.jpg"
    with MDSWriter(out=str(folder), columns={"image": "jpeg", "caption": "str"}) as writer:
        for image, caption in source.records():
            file.write_bytes(image)
            with Image.open(file) as opened:  # of a file, the bytes are kept as they are
                writer.write({"image": opened, "caption": caption})
