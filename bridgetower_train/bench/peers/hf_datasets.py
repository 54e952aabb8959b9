"""Hugging Face datasets: the same tars, streamed and decoded by Pillow."""

from typing import Any

import torch
from datasets import load_dataset
from torch import Tensor
from torch.utils.data import DataLoader

from bridgetower_train.bench.peers import Batches, Source

SHUFFLED = 1000


def batches(source: Source) -> Batches:
    def collate(samples: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        images = torch.stack([source.square(sample["jpg"]) for sample in samples])
        return images, torch.stack([source.ids(sample["json"]["captions"][0]) for sample in samples])

    cache = str(source.folder)
    dataset = load_dataset(
        "webdataset", data_files={"train": source.tars}, split="train", streaming=True, cache_dir=cache
    )
    shuffled = dataset.shuffle(seed=0, buffer_size=SHUFFLED)
    loader = DataLoader(shuffled, batch_size=source.batch, collate_fn=collate, drop_last=True)
    while True:
        yield from loader
