"""Images as data URIs, so that a page is one file."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgetower_train.data.image import Pixels, check_image
from bridgetower_train.data.shards import BadRecordError

_MAX_URI = 10_000_000  # characters; `eval` writes thumbnails of a few thousand
_DARKEST = 0.15  # brightness without attention


def png(image_CHW: npt.NDArray[np.uint8]) -> str:
    """Exactly these pixels (uint8, 3 x H x W)."""
    return _uri(Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))), "PNG")


def spotlight(image_CHW: npt.NDArray[np.uint8], weights_GG: npt.NDArray[np.float32], edge: int = 224) -> str:
    """A square image as a JPEG of `edge` pixels, dark except where `weights_GG` are high; full brightness at their maximum."""
    image = Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))).resize((edge, edge))
    share = Image.fromarray(weights_GG / max(float(weights_GG.max()), 1e-9))
    share = share.resize((edge, edge), Image.Resampling.BICUBIC)
    light = _DARKEST + (1 - _DARKEST) * np.clip(np.asarray(share), 0, 1)
    return _uri(Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8)), "JPEG")


def thumbnail(source: str, edge: int = 240) -> str | None:
    """A JPEG of at most `edge` pixels from a data URI of a JPEG or PNG; None if it is anything else.

    What a run folder names may be written by others: no file is opened, and no other decoder of Pillow.
    """
    if not source.startswith("data:image/") or len(source) > _MAX_URI:
        return None
    try:
        image = check_image(base64.b64decode(source.partition(",")[2]))
        if image.format not in ("JPEG", "PNG"):
            return None
        return shrunk(image.decode(), edge)
    except (ValueError, BadRecordError):
        return None


def shrunk(pixels: Pixels, edge: int) -> str:
    """A JPEG of at most `edge` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((edge, edge), Image.Resampling.BICUBIC)
    return _uri(image, "JPEG")


def small(image_CHW: npt.NDArray[np.uint8], edge: int) -> str:
    """The same of uint8, 3 x H x W."""
    return shrunk(image_CHW.transpose(1, 2, 0), edge)


def _uri(image: Image.Image, form: str) -> str:
    file = io.BytesIO()
    image.save(file, form, quality=88)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
