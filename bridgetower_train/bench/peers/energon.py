"""Megatron Energon: the same tars, indexed by its own preparation, decoded by Pillow."""

import json
from pathlib import Path

from megatron.energon import (
    CaptioningSample,
    DefaultTaskEncoder,
    Sample,
    SampleDecoder,
    WorkerConfig,
    edataclass,
    get_loader,
    get_train_dataset,
)
from megatron.energon.flavors import BaseWebdatasetFactory
from torch import Tensor

from bridgetower_train.bench.peers import Batches, Source

SHUFFLED = 1000


@edataclass
class _Pair(Sample):  # type: ignore[misc]
    image: Tensor
    ids: Tensor


class _Encoder(DefaultTaskEncoder):  # type: ignore[misc]
    decoder = SampleDecoder(image_decode="torchrgb8")

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def encode_sample(self, sample: CaptioningSample) -> _Pair:
        image, ids = self.source.square_of(sample.image), self.source.ids(sample.caption)
        return _Pair.derive_from(sample, image=image, ids=ids)  # type: ignore[no-any-return]


def batches(source: Source) -> Batches:
    _prepare(source, source.folder)
    dataset = get_train_dataset(
        source.folder,
        batch_size=source.batch,
        batch_drop_last=True,
        shuffle_buffer_size=SHUFFLED,
        max_samples_per_sequence=100,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        task_encoder=_Encoder(source),
    )
    for batch in get_loader(dataset):
        yield batch.image, batch.ids


def _prepare(source: Source, folder: Path) -> None:
    for tar in source.tars:
        (folder / Path(tar).name).symlink_to(Path(tar).resolve())
    names = [Path(tar).name for tar in source.tars]
    BaseWebdatasetFactory.prepare_dataset(folder, names, split_parts_ratio=[("train", 1.0)], workers=1)
    described = {
        "sample_type": {"__module__": "megatron.energon", "__class__": "CaptioningSample"},
        "field_map": {"image": "jpg", "caption": "json[captions][0]"},
    }
    (folder / ".nv-meta" / "dataset.yaml").write_text(json.dumps(described))
