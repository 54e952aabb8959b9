"""Any picture to the JPEG that shards hold."""

import io

import numpy as np
from PIL import Image, ImageOps

from bridgetower_train.data.shards import MAX_PIXELS, BadRecordError

JPEG_QUALITY = 95
"""At the training size this is as faithful as 384 pixels at the same quality, for 62% of the bytes."""
TOO_MANY_PIXELS = f"more than {MAX_PIXELS / 1e6:g} megapixels"

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # Pillow's other plugins are not needed, and some start programs
_MAX_JPEG_EDGE = 65_500  # libjpeg's limit, pixels
_DRAFT_MARGIN = 3  # libjpeg may shrink while decoding to no less than this times the final size: too little to see


def prepare_jpeg(source: bytes | Image.Image, image_size: int) -> bytes:
    """A picture for a shard: RGB JPEG, quality 95, shorter edge exactly `image_size` pixels (bicubic, antialiased).

    EXIF orientation is applied, alpha laid on white, the first frame of an animation taken; no metadata stay.
    BadRecordError where the source is no picture, is cut short, has more than MAX_PIXELS or is too long for a JPEG.
    """
    picture = open_picture(source) if isinstance(source, bytes) else source
    width, height = picture.size
    shorter = min(width, height)
    size = (image_size * width // shorter, image_size * height // shorter)
    if max(size) > _MAX_JPEG_EDGE:
        raise BadRecordError("longer than a JPEG can be")
    try:
        if isinstance(source, bytes):
            picture.draft(picture.mode, (_DRAFT_MARGIN * size[0], _DRAFT_MARGIN * size[1]))
        picture = _to_rgb(picture)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        picture = _upright(picture)
    except Exception as error:  # Pillow raises whatever a broken file makes it stumble over
        raise BadRecordError("picture cannot be decoded") from error
    picture.info = {}  # else its comment would be written
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def open_picture(data: bytes, formats: tuple[str, ...] = _FORMATS) -> Image.Image:
    """A picture of which only the header has been read; BadRecordError where it is none or has more than MAX_PIXELS."""
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise BadRecordError(TOO_MANY_PIXELS) from None
    except Exception as error:  # Pillow raises whatever a broken file makes it stumble over
        raise BadRecordError("not a picture") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise BadRecordError(TOO_MANY_PIXELS)
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        white.info = picture.info
        return white.convert("RGB")
    if picture.mode.startswith("I"):  # 16 bits: Pillow would cut off above 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as EXIF says, where it can be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # as many kinds as there are ways to break EXIF; the picture itself is fine
        return picture
