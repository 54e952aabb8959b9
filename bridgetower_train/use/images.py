"""Images as a user has them: files, encoded bytes, Pillow's, tensors, records of a corpus; seen as a corpus's own are."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.image import NOT_AN_IMAGE, decode_square, rgb
from bridgetower_train.data.shards import MAX_IMAGE_BYTES, BadRecordError, Record
from bridgetower_train.foreign import read_bytes
from data_prep.source.image import prepare_jpeg

ImageLike = str | os.PathLike[str] | bytes | memoryview | Image.Image | Tensor | Record
"""A path, an encoded image (JPEG, PNG, WebP, GIF or BMP), one of Pillow's, a uint8 tensor (3, H, W), or a record of a corpus.

All but tensors of the model's size, and records, which have been, are prepared as a corpus prepares its images."""


def as_seen(image: ImageLike, config: TrainConfig) -> Tensor:
    """uint8 (3, S, S): an image as the model of a run sees it. A tensor of that shape is returned as it is.

    BadRecordError where it is no image or may not be decoded, OSError where its file cannot be read, FileError where that is
    another kind of file.
    """
    size = config.model.image_size
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.shape == (3, size, size):
        return image.cpu()
    out = np.empty((size, size, 3), dtype=np.uint8)
    encoded = image.image if isinstance(image, Record) else prepare_jpeg(_source(image), size)
    decode_square(encoded, size, config.data.square, out)
    return torch.from_numpy(out).permute(2, 0, 1)


def listed(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    """One image as a list of one, and several as they are, be it as a tensor (N, 3, H, W)."""
    if isinstance(images, Tensor) and images.ndim == 4:
        return list(images)
    if isinstance(images, str | os.PathLike | bytes | memoryview | Image.Image | Tensor | Record):
        return [images]
    return images


def _source(image: str | os.PathLike[str] | bytes | memoryview | Image.Image | Tensor) -> bytes | Image.Image:
    """What `prepare_jpeg` takes."""
    if isinstance(image, Image.Image):
        return Image.fromarray(rgb(ImageOps.exif_transpose(image)))
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise BadRecordError(f"{NOT_AN_IMAGE}: a tensor must be uint8 (3, H, W)")
        return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    return bytes(image) if isinstance(image, bytes | memoryview) else read_bytes(os.fspath(image), MAX_IMAGE_BYTES)
