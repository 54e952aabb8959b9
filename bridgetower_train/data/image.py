"""Encoded images to cropped pixels."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image

from bridgetower_train.data.shards import MAX_PIXELS, BadRecordError

Pixels = npt.NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP")


def decode_crop(data: bytes | memoryview, size: int, out: Pixels, scratch: Pixels | None = None) -> None:
    """Decode an image and write its centre, uint8 (size, size, 3) RGB, into `out`.

    If its shorter edge is not `size` the image is first resized (bicubic, antialiased), as torchvision's Resize and
    CenterCrop do. For speed, a JPEG that fits is decoded in `scratch` (contiguous, any shape).
    BadRecordError if it cannot be decoded, is truncated or has more than MAX_PIXELS pixels.
    """
    pixels = decode(data) if scratch is None else _decode_in(scratch, data)
    if min(pixels.shape[:2]) != size:
        pixels = resize_shorter(pixels, size)
    height, width = pixels.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    out[:] = pixels[top : top + size, left : left + size]


def resize_shorter(pixels: Pixels, size: int) -> Pixels:
    """Resize uint8 (H, W, 3) to a shorter edge of `size`; the longer edge is scaled in proportion and rounded down.

    BadRecordError if the result would have more than MAX_PIXELS pixels, as that of a 1 x 100000 image does.
    """
    height, width = pixels.shape[:2]
    shorter, longer = sorted((height, width))
    other = int(size * longer / shorter)
    shape = (size, other) if height <= width else (other, size)
    check_pixels(*shape)
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, shape, mode="bicubic", antialias=True)
    array: Pixels = resized[0].permute(1, 2, 0).numpy()
    return array


def decode(data: bytes | memoryview) -> Pixels:
    """A whole image, uint8 (H, W, 3) RGB; BadRecordError as in `decode_crop`."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return _decode_other(data)
    check_pixels(height, width)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except ValueError as error:
        raise BadRecordError(f"JPEG cannot be decoded: {error}") from None
    return pixels


def check_pixels(height: int, width: int) -> None:
    """BadRecordError for an image of more than MAX_PIXELS pixels."""
    if height * width > MAX_PIXELS:
        raise BadRecordError(f"{width} x {height} pixels: more than {MAX_PIXELS / 1e6:g} million")


def _decode_in(scratch: Pixels, data: bytes | memoryview) -> Pixels:
    """Like `decode`, but neither reads the header first nor allocates if the image fits into `scratch`."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, buffer=scratch)
    except ValueError:  # too large for it, damaged, or not a JPEG
        return decode(data)
    return pixels


def _decode_other(data: bytes | memoryview) -> Pixels:
    """An image that is not a JPEG, or one that libjpeg-turbo cannot read. Transparent pixels are blended with white."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_pixels(image.height, image.width)
            return np.array(_to_rgb(image))
    except BadRecordError:
        raise
    except Exception as error:  # Pillow's plugins raise all kinds of errors for damaged files
        raise BadRecordError(f"image cannot be decoded: {type(error).__name__}: {error}") from None


def _to_rgb(image: Any) -> Any:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")
