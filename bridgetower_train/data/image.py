"""The one decoder: encoded images to upright RGB pixels, in preparation, training, evaluation, `predict` and pages.

An image is checked before it is decoded: a small file can ask for gigabytes, or for minutes. docs/decisions.md has the
measurements behind the limits.
"""

import io
import itertools
import re
from struct import Struct
from struct import error as StructError
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from bridgetower_train.data.shards import MAX_PIXELS, BadRecordError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded, told by the first bytes. Pillow's other decoders are not needed, and some start programs."""
MAX_MEMORY = 512
"""Megabytes that decoding may take, in each process that decodes."""
MAX_SECONDS = 2
"""Seconds of one core that decoding may take."""
MAX_SCANS = 500
"""Scans of a JPEG, the limit that libjpeg-turbo advises; progressive ones have about ten."""

NOT_AN_IMAGE = "not an image"
UNDECODABLE = "image cannot be decoded"
TOO_MANY_PIXELS = f"more than {MAX_PIXELS / 1e6:g} megapixels"
TOO_MUCH_MEMORY = f"more than {MAX_MEMORY} MB to decode"
TOO_SLOW = f"more than {MAX_SECONDS} s to decode"
TOO_MANY_SCANS = f"more than {MAX_SCANS} scans"
TOO_NARROW = "too narrow"
"""Reasons of BadRecordError, which are also states of a preparation."""

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), RGB"""

_COSTS = {
    "PNG": (7, 32, 5),
    "WEBP": (19, 22, 55),
    "GIF": (4, 8, 2),
    "BMP": (7, 8, 2),
    "JPEG": (3, 3, 12),
    "CMYK": (7, 8, 12),
}
"""What decoding takes at worst: bytes of memory a pixel, nanoseconds a pixel, nanoseconds a byte of the file."""
_COEFFICIENT_BYTES, _SCAN_NS, _SCAN_BYTE_NS = 2, 1, 25
"""Where a JPEG has several scans: further bytes a pixel and component, further nanoseconds a pixel and scan; a byte."""
_HEADER_READS, _READS = 4096, 250_000
"""Reads that Pillow may make; its plugins read each part of a file in Python, some of them byte by byte."""
_MAX_EDGE = 65_500  # libjpeg's limit, pixels
_MARGIN = 3  # libjpeg may shrink to no less than this times the final size: the difference is not visible
_STRIP = 1 << 20  # pixels that are converted at once

_SOI = b"\xff\xd8\xff"
_SEGMENT, _FRAME = Struct(">BBH").unpack_from, Struct(">BHHB").unpack_from
_MARKER, _SCAN = re.compile(rb"\xff[\x01-\xfe]"), re.compile(rb"\xff\xda")
_SOS, _APP1 = 0xDA, 0xE1
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # whether progressive; others are rare, and slow to decode
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_MAX_SEGMENTS = 300  # before the first scan; a profile has at most 255

_ORIENTATION = 0x0112  # EXIF
_TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


class Encoded:
    """An image that may be decoded; `check_image` makes it."""

    __slots__ = ("_data", "_has_exif", "_image", "_seconds", "format", "height", "width")

    def __init__(
        self,
        data: bytes | memoryview,
        size: tuple[int, int],
        image: Image.Image | None = None,
        has_exif: bool = True,
        seconds: float = 0.0,
    ) -> None:
        """`image`: opened by Pillow; None for a JPEG that simplejpeg decodes, in about `seconds`."""
        self._data, self._image, self._has_exif, self._seconds = data, image, has_exif, seconds
        self.format = "JPEG" if image is None else image.format
        self.width, self.height = size
        """Pixels, as stored."""

    def decode(self, size: int | None = None, scratch: Pixels | None = None, squash: bool = False) -> Pixels:
        """The upright image, resized (bicubic, antialiased) to a shorter edge of `size`; None: as large as it is.

        `squash`: to `size` x `size`, whatever its proportions. It is never too narrow for that.

        Transparency becomes white, an animation gives its first frame. A JPEG that fits is decoded in `scratch`
        (contiguous, any shape), which is faster. BadRecordError if the image is damaged or cut short, or too narrow.
        """
        shape = None
        if size is not None:
            shape = (size, size) if squash else resized_shape(self.height, self.width, size)
        pixels = self._pixels(size, scratch)
        if shape is not None and shape != pixels.shape[:2]:
            pixels = resize(pixels, *shape)
        turn = _TURNS.get(self._orientation()) if self._has_exif else None
        return pixels if turn is None else turn(pixels)

    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels as decoded."""
        turned = self._has_exif and 5 <= self._orientation() <= 8
        return (self.height, self.width) if turned else (self.width, self.height)

    @property
    def is_plain(self) -> bool:
        """Whether it is a JPEG that has no EXIF and needs no Pillow; known for sure once it has been decoded."""
        return self._image is None and not self._has_exif

    def _pixels(self, size: int | None, scratch: Pixels | None) -> Pixels:
        """As stored; where it is much larger than `size`, a JPEG is shrunk by 2, 4 or 8 while it is decoded."""
        shrink, shorter = 1, min(self.width, self.height)
        while size is not None and shrink < 8 and shorter >= 2 * shrink * _MARGIN * size:
            shrink *= 2
        width, height = -(-self.width // shrink), -(-self.height // shrink)
        if self._image is None:
            buffer = scratch if scratch is not None and 3 * width * height <= scratch.size else None
            try:
                pixels: Pixels = simplejpeg.decode_jpeg(
                    self._data, min_height=height, min_width=width, min_factor=shrink, buffer=buffer
                )
                return pixels
            except ValueError:  # libjpeg warns, perhaps of something harmless, which Pillow overlooks
                if 2 * self._seconds > MAX_SECONDS:
                    raise BadRecordError(UNDECODABLE) from None
                self._image = _open(self._data, ("JPEG",))
        try:
            self._image.draft(None, (width, height))
            return rgb(self._image)
        except BadRecordError:
            raise
        except Exception as error:  # Pillow's plugins raise all kinds of errors for damaged files
            raise BadRecordError(UNDECODABLE) from error

    def _orientation(self) -> int:
        """1 to 8; 1 where EXIF has none that can be read."""
        try:
            image = self._image or _open(self._data, ("JPEG",))
            return int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # broken EXIF raises all kinds of errors; the image itself is fine
            return 1


def check_image(data: bytes | memoryview) -> Encoded:
    """An image, only its header read.

    BadRecordError if it is none of FORMATS, or if decoding would take more than MAX_PIXELS, MAX_MEMORY, MAX_SECONDS or
    MAX_SCANS.
    """
    return _check_jpeg(data) if data[:3] == _SOI else _check_other(data)


def decode(data: bytes | memoryview, size: int | None = None) -> Pixels:
    """`Encoded.decode` of an image that is checked first. BadRecordError as of both."""
    return check_image(data).decode(size)


def preprocessing(size: int, square: str) -> str:
    """What `decode_square` does, in words."""
    return f"whole image to {size} x {size} px" if square == "squash" else f"shorter edge to {size} px, centre crop"


def decode_square(data: bytes | memoryview, size: int, square: str, out: Pixels, scratch: Pixels | None = None) -> None:
    """Write an image as the model sees it, uint8 (size, size, 3), into `out`; resized and cut as torchvision's transforms do.

    `square` is `data.square`; `scratch` and BadRecordError as of `Encoded.decode`.
    """
    pixels = check_image(data).decode(size, scratch, square == "squash")
    height, width = pixels.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    out[:] = pixels[top : top + size, left : left + size]


def resize_shorter(pixels: Pixels, size: int) -> Pixels:
    """Resize to a shorter edge of `size`. BadRecordError as of `resized_shape`."""
    height, width = pixels.shape[:2]
    return resize(pixels, *resized_shape(height, width, size))


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) with a shorter edge of `size`; the longer one is in proportion, rounded down.

    BadRecordError if that would be longer than a JPEG can be.
    """
    shorter = min(height, width)
    shape = size * height // shorter, size * width // shorter
    if max(shape) > _MAX_EDGE:
        raise BadRecordError(TOO_NARROW)
    return shape


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize by torch's uint8 bicubic, 2-3 times as fast as Pillow's and within two levels of it.

    Where the proportions change, single pixels at hard edges differ by up to 13: both clip between the resizing across and down,
    which Pillow may do in the other order. The mean over 81 photographs squashed to 384 px is 0.04.
    """
    import torch  # slow to import, and the process that hands out images does not resize

    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, (height, width), mode="bicubic", antialias=True)
    array: Pixels = resized[0].permute(1, 2, 0).numpy()
    return array


def _check_jpeg(data: bytes | memoryview) -> Encoded:
    """Walk over the segments before the first scan; where bytes lie between them, as libjpeg does."""
    at, has_exif, frame, progressive = 2, False, None, False
    try:
        for _ in range(_MAX_SEGMENTS):
            fill, marker, length = _SEGMENT(data, at)
            if fill != 0xFF or marker in (0x00, 0xFF):
                found = _MARKER.search(data, at + 1)
                at = len(data) if found is None else found.start()
                continue
            if marker == _SOS:
                break
            if marker in _FRAMES:
                frame, progressive = _FRAME(data, at + 4), _FRAMES[marker]
            elif marker in _OTHER_FRAMES:
                raise BadRecordError(UNDECODABLE)
            elif marker == _APP1:
                has_exif = True
            at += 2 if marker in _ALONE else 2 + length
        else:
            raise BadRecordError(UNDECODABLE)
        components_in_scan = data[at + 4]
    except (StructError, IndexError):
        raise BadRecordError(NOT_AN_IMAGE) from None
    if frame is None:
        raise BadRecordError(NOT_AN_IMAGE)
    _, height, width, components = frame
    if not height * width or components not in (1, 3, 4):
        raise BadRecordError(UNDECODABLE)
    pixel_bytes, pixel_ns, byte_ns = _COSTS["CMYK" if components == 4 else "JPEG"]
    if progressive or components_in_scan < components:
        scans = sum(1 for _ in itertools.islice(_SCAN.finditer(data, at), MAX_SCANS + 1))
        if scans > MAX_SCANS:
            raise BadRecordError(TOO_MANY_SCANS)
        pixel_bytes += _COEFFICIENT_BYTES * components
        pixel_ns += _SCAN_NS * scans
        byte_ns = _SCAN_BYTE_NS
    seconds = _check_costs(height * width, len(data), pixel_bytes, pixel_ns, byte_ns)
    image = _open(data, ("JPEG",)) if components == 4 else None
    return Encoded(data, (width, height), image, has_exif, seconds)


def _check_other(data: bytes | memoryview) -> Encoded:
    image = _open(data, FORMATS[1:])
    _check_costs(image.width * image.height, len(data), *_COSTS[image.format or ""])
    return Encoded(data, image.size, image)


def _check_costs(pixels: int, size: int, pixel_bytes: int, pixel_ns: int, byte_ns: int) -> float:
    """Estimated seconds; BadRecordError if they, the pixels or the bytes are too many."""
    if pixels > MAX_PIXELS:
        raise BadRecordError(TOO_MANY_PIXELS)
    seconds = (pixels * pixel_ns + size * byte_ns) / 1e9
    if pixels * pixel_bytes > MAX_MEMORY * 1e6:
        raise BadRecordError(TOO_MUCH_MEMORY)
    if seconds > MAX_SECONDS:
        raise BadRecordError(TOO_SLOW)
    return seconds


class _Reads(io.BytesIO):
    """A file in memory that can be read `left` more times."""

    left = _HEADER_READS

    def read(self, size: int | None = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise BadRecordError(UNDECODABLE)
        return super().read(size)


def _open(data: bytes | memoryview, formats: tuple[str, ...]) -> Image.Image:
    """Opened by Pillow, not yet decoded; BadRecordError where it is not an image."""
    file = _Reads(data)
    try:
        image = Image.open(file, formats=formats)
    except BadRecordError:
        raise
    except Image.DecompressionBombError:
        raise BadRecordError(TOO_MANY_PIXELS) from None
    except Exception as error:  # Pillow raises all kinds of errors for broken files
        raise BadRecordError(NOT_AN_IMAGE) from error
    file.left = _READS
    return image


def rgb(image: Image.Image) -> Pixels:
    """The pixels of an opened image on white, converted in strips: a copy of the whole takes four bytes a pixel."""
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = pixels[top : top + rows]
        strip[:] = _converted(image.crop((0, top, image.width, top + len(strip))))
    return pixels


def _converted(image: Image.Image) -> Any:
    """To RGB on white: an array of uint8 (height, width, 3 or 1)."""
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip values above 255
        wide = np.asarray(image)[..., None]
        return np.where(wide == image.info.get("transparency", -1), 255, wide >> 8)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return np.asarray(image.convert("RGB"))
