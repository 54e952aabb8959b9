"""Images as data URIs, so that a page is one file."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from bridgetower_train.data.image import Pixels, check_image
from bridgetower_train.data.shards import BadRecordError

_MAX_URI = 10_000_000  # characters; `eval` writes thumbnails of a few thousand
_TINT = 0.6  # of the colour in what is seen, the rest is the image
SCALE = ((30, 30, 110), (110, 30, 150), (200, 60, 110), (250, 140, 50), (250, 240, 90))
"""Colours of the lowest to the highest weight (RGB), each lighter than the one before."""


def png(image_CHW: npt.NDArray[np.uint8]) -> str:
    """Exactly these pixels (uint8, 3 x H x W)."""
    return _uri(Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))), "PNG")


def spotlight(
    image_CHW: npt.NDArray[np.uint8], weights_GG: npt.NDArray[np.float32], edge: int = 224, most: float | None = None
) -> str:
    """A square image in grey as a JPEG of `edge` pixels, coloured by `weights_GG` on the scale SCALE from 0 to `most`.

    None: to their maximum.
    """
    grey = Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0))).resize((edge, edge)).convert("L")
    share = Image.fromarray(weights_GG / max(float(weights_GG.max()) if most is None else most, 1e-9))
    shares = np.clip(np.asarray(share.resize((edge, edge), Image.Resampling.BICUBIC)), 0, 1)
    places, colours = np.linspace(0, 1, len(SCALE)), np.array(SCALE)
    colour = np.stack([np.interp(shares, places, channel) for channel in colours.T], axis=-1)
    mixed = (1 - _TINT) * np.asarray(grey)[..., None] + _TINT * colour
    return _uri(Image.fromarray(mixed.astype(np.uint8)), "JPEG")


def scale_css() -> str:
    """SCALE as a gradient from left to right, as it looks over mid-grey."""
    mixed = (_TINT * np.array(SCALE) + (1 - _TINT) * 128).astype(int).tolist()
    return f"linear-gradient(to right, {', '.join(f'rgb({r} {g} {b})' for r, g, b in mixed)})"


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
