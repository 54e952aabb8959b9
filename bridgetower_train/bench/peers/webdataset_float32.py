"""Stock webdataset with Pillow, normalized to float32, as is usual."""

import torch
from PIL import Image
from torch import Tensor

from bridgetower_train.bench.peers import Batches, Source
from bridgetower_train.bench.peers.webdataset_uint8 import pipeline
from bridgetower_train.model.vision import CLIP_MEAN, CLIP_STD


def batches(source: Source) -> Batches:
    mean, deviation = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)

    def view(image: Image.Image) -> Tensor:
        return (source.square(image).contiguous().float() / 255 - mean) / deviation

    return pipeline(source, view)
