"""Any image to the JPEG that goes into a shard."""

import io

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from bridgetower_train.data.shards import MAX_PIXELS, BadRecordError

JPEG_QUALITY = 95
"""At the training size this is as faithful as 384 pixels at the same quality, at 62% of the bytes."""
TOO_MANY_PIXELS = f"more than {MAX_PIXELS / 1e6:g} megapixels"

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # Pillow's other plugins are not needed, and some start programs
_MAX_JPEG_EDGE = 65_500  # libjpeg's limit, pixels
_MARGIN = 3  # libjpeg may shrink to no less than this times the final size: the difference is not visible
_ORIENTATION = 0x0112  # EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3)"""


def prepare_jpeg(source: bytes | Image.Image, image_size: int) -> bytes:
    """An image for a shard: RGB JPEG, quality 95, shorter edge exactly `image_size` pixels (bicubic, antialiased).

    EXIF orientation is applied, transparency becomes white, an animation gives its first frame; metadata is removed.
    BadRecordError where the source is not an image, is cut short, has more than MAX_PIXELS or is too long for a JPEG.
    """
    return prepare(source, image_size)[0]


def prepare(source: bytes | Image.Image, image_size: int) -> tuple[bytes, int, int]:
    """`prepare_jpeg`, with width and height of the original as stored, pixels."""
    image = open_image(source) if isinstance(source, bytes) else source
    width, height = image.size
    shorter = min(width, height)
    size = (image_size * width // shorter, image_size * height // shorter)
    if max(size) > _MAX_JPEG_EDGE:
        raise BadRecordError("longer than a JPEG can be")
    shrink = next((factor for factor in (8, 4, 2) if shorter >= factor * _MARGIN * image_size), 1)
    try:
        turn = _TURNS.get(_orientation(image))
        pixels = _resize(_decode(image, source, shrink), size)
    except Exception as error:  # decoders raise all kinds of errors on broken files
        raise BadRecordError("image cannot be decoded") from error
    result = Image.fromarray(pixels)
    out = io.BytesIO()
    # Pillow's encoder: below quality 96 simplejpeg has only the fast DCT, 0.3 dB worse and 1% larger, to save 4% of time
    (result if turn is None else result.transpose(turn)).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue(), width, height


def open_image(data: bytes, formats: tuple[str, ...] = _FORMATS) -> Image.Image:
    """An image, only its header read; BadRecordError where it is not an image or has more than MAX_PIXELS."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise BadRecordError(TOO_MANY_PIXELS) from None
    except Exception as error:  # Pillow raises all kinds of errors on broken files
        raise BadRecordError("not an image") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadRecordError(TOO_MANY_PIXELS)
    return image


def _decode(image: Image.Image, source: bytes | Image.Image, shrink: int) -> Pixels:
    """Decode: ordinary JPEGs by libjpeg-turbo straight into an array; all else, and what it rejects, by Pillow."""
    width, height = (-(-edge // shrink) for edge in image.size)
    if isinstance(source, bytes) and image.format == "JPEG" and image.mode in ("RGB", "L"):
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                source, "RGB", min_height=height, min_width=width, min_factor=shrink
            )
            return pixels
        except ValueError:  # libjpeg warns, perhaps of something harmless
            pass
    image.draft(None, (width, height))
    return np.asarray(_to_rgb(image))


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (width, height): torch's uint8 bicubic is 2-3 times as fast as Pillow's, and within two levels of it."""
    height, width = size[::-1]
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    import torch  # slow to import, and the process that hands out images does not resize

    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    image = torch.nn.functional.interpolate(image, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip values above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The orientation in EXIF, 1 to 8; 1 where it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF raises all kinds of errors; the image itself is fine
        return 1
