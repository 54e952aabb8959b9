"""Pictures as data URIs, so that a page needs no other file."""

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def png(picture_CHW: npt.NDArray[np.uint8]) -> str:
    """Exactly these pixels (uint8, 3 x H x W)."""
    return _uri(Image.fromarray(np.ascontiguousarray(picture_CHW.transpose(1, 2, 0))), "PNG")


def thumbnail(source: str, folder: Path, edge: int = 240) -> str | None:
    """A JPEG of at most `edge` pixels from a data URI or a file below `folder`; None where there is no picture."""
    try:
        if source.startswith("data:image/"):
            image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        else:
            image = Image.open(folder / source)
        return shrunk(image, edge)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def shrunk(image: Image.Image, edge: int) -> str:
    """A JPEG of at most `edge` pixels."""
    small = image.convert("RGB")
    small.thumbnail((edge, edge), Image.Resampling.BICUBIC)
    return _uri(small, "JPEG")


def _uri(image: Image.Image, form: str) -> str:
    file = io.BytesIO()
    image.save(file, form, quality=88)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
