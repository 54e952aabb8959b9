"""Decoding and cropping: right pixels from good images, a reason from bad ones."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bridgetower_train.data.image import decode_square
from bridgetower_train.data.shards import BadRecordError


def photo(height, width, seed=0):
    """A smooth uint8 image (height, width, 3) with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 3, (3, 3))]
    return np.clip(128 + 100 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(pixels, kind="JPEG", mode="RGB", **options):
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return out.getvalue()


def decode(data, size=64, square="crop"):
    out = np.full((size, size, 3), 77, dtype=np.uint8)
    decode_square(data, size, square, out)
    return out


@pytest.mark.parametrize("shape", [(64, 64), (64, 65), (64, 66), (64, 67), (91, 64), (64, 200)])
def test_the_centre_is_cut_as_torchvision_does(shape):
    pixels = photo(*shape)
    top, left = (round((edge - 64) / 2.0) for edge in shape)  # 0.5 goes to 0, 1.5 to 2
    assert np.array_equal(decode(encode(pixels, "PNG")), pixels[top : top + 64, left : left + 64])


@pytest.mark.parametrize("shape", [(64, 64), (64, 91), (80, 64)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_gives_the_pixels_of_pillow(shape, options):
    data = encode(photo(*shape), **options)
    pixels = np.array(Image.open(io.BytesIO(data)))
    top, left = (round((edge - 64) / 2) for edge in shape)
    assert np.array_equal(decode(data), pixels[top : top + 64, left : left + 64])
    assert np.array_equal(decode(memoryview(data)), decode(data))


@pytest.mark.parametrize(("shape", "resized"), [((150, 200), (64, 85)), ((211, 97), (139, 64)), ((40, 30), (85, 64))])
def test_other_sizes_are_resized_with_antialias(shape, resized):
    data = encode(photo(*shape))
    height, width = resized
    reference = np.array(Image.open(io.BytesIO(data)).resize((width, height), Image.Resampling.BICUBIC))
    top, left = round((height - 64) / 2), round((width - 64) / 2)
    difference = np.abs(decode(data).astype(int) - reference[top : top + 64, left : left + 64])
    assert difference.max() <= 2


@pytest.mark.parametrize(
    "shape", [(64, 64), (64, 85), (150, 200), (211, 97), (40, 30), (9, 300), (800, 1000), (2600, 700)]
)
def test_squashing_shows_the_whole_image(shape):
    """Also where libjpeg shrinks it while decoding: the last two."""
    data = encode(photo(*shape))
    reference = np.array(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BICUBIC))
    difference = np.abs(decode(data, square="squash").astype(int) - reference)
    assert difference.max() <= (2 if max(shape) < 800 else 6)
    assert difference.mean() < 1


def test_an_image_is_never_too_narrow_to_be_squashed():
    data = encode(photo(1, 60_000), "PNG")
    with pytest.raises(BadRecordError, match="too narrow"):
        decode(data)
    assert decode(data, square="squash").std() > 10


def test_a_strided_place_is_filled_too():
    whole = np.zeros((64, 128, 3), dtype=np.uint8)
    decode_square(encode(photo(64, 64)), 64, "crop", whole[:, ::2])
    assert np.array_equal(whole[:, ::2], decode(encode(photo(64, 64))))
    assert not whole[:, 1::2].any()


@pytest.mark.parametrize("square", ["crop", "squash"])
@pytest.mark.parametrize("shape", [(64, 64), (64, 91), (80, 64), (64, 300), (150, 200)])
def test_scratch_memory_changes_nothing(shape, square):
    data, out = encode(photo(*shape)), np.empty((64, 64, 3), dtype=np.uint8)
    scratch = np.zeros((4, 64, 64, 3), dtype=np.uint8)
    decode_square(data, 64, square, out, scratch)
    assert np.array_equal(out, decode(data, square=square))
    assert scratch.any() == (shape[0] * shape[1] * 3 <= scratch.size)


@pytest.mark.parametrize(("cut", "reason"), [(slice(0, 700), "cannot be decoded"), (slice(5, None), "not an image")])
def test_scratch_memory_hides_no_damage(cut, reason):
    out = np.empty((64, 64, 3), dtype=np.uint8)
    with pytest.raises(BadRecordError, match=reason):
        decode_square(encode(photo(64, 64))[cut], 64, "crop", out, np.empty((4, 64, 64, 3), np.uint8))


def test_greyscale_becomes_three_equal_channels():
    pixels = decode(encode(photo(70, 64), mode="L"))
    assert (pixels[..., :1] == pixels).all()
    assert pixels.std() > 10


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_images_of_other_kinds_are_read(kind):
    pixels = photo(64, 80)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(encode(pixels, kind, **options)), pixels[:, 8:72])


def test_cmyk_has_its_colours():
    pixels = photo(64, 64)
    assert np.abs(decode(encode(pixels, mode="CMYK")).astype(int) - pixels).mean() < 3


def test_transparency_lies_on_white():
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[:32, :, 3] = 255
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "PNG")
    pixels = decode(out.getvalue())
    assert (pixels[:32] == 0).all()
    assert (pixels[32:] == 255).all()
    palette = Image.fromarray(photo(64, 64)).convert("P")
    out = io.BytesIO()
    palette.save(out, "PNG")
    assert np.array_equal(decode(out.getvalue()), np.array(palette.convert("RGB")))


def png_of(width, height):
    """The beginning of a PNG that claims to be of this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + data + struct.pack(">I", 1 << 20) + b"IDAT" + bytes(100)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_from_their_header():
    jpeg = bytearray(encode(photo(64, 64)))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = struct.pack(">HH", 60_000, 60_000)
    for data in (bytes(jpeg), png_of(12_000, 12_000)):
        with pytest.raises(BadRecordError, match="more than 100 megapixels"):
            decode(data)
    with pytest.raises(BadRecordError):
        decode(png_of(60_000, 60_000))
    with pytest.raises(BadRecordError, match="too narrow"):
        decode(encode(photo(1, 60_000)))  # small itself, but not when its shorter edge is 64


@pytest.mark.parametrize("left", [0, 2, 20, 200, 0.3, 0.9, -300, -2, -1])
def test_jpegs_cut_short_are_refused(left):
    data = encode(photo(64, 80))
    end = int(left * len(data)) if isinstance(left, float) else left
    with pytest.raises(BadRecordError):
        decode(data[:end])


def test_all_sorts_of_bytes_are_refused():
    png = encode(photo(64, 64), "PNG")
    rng = np.random.default_rng(0)
    for data in (
        b"<html><body>404 Not Found</body></html>",
        bytes(1000),
        rng.bytes(5000),
        b"\xff\xd8\xff" + rng.bytes(5000),
        png[: len(png) // 2],
        encode(photo(64, 64), "TIFF"),
        encode(photo(64, 64), "PPM"),
        encode(photo(64, 64), mode="CMYK")[:-200],
    ):
        with pytest.raises(BadRecordError):
            decode(data)


def test_broken_bytes_never_raise_anything_else():
    good = [
        encode(photo(64, 70)),
        encode(photo(64, 70), mode="CMYK"),
        encode(photo(64, 64), "PNG"),
        encode(photo(64, 64), "WEBP"),
    ]
    rng = np.random.default_rng(1)
    refused = 0
    for data in good * 60:
        broken = bytearray(data)
        for place in rng.integers(0, len(broken), 3):
            broken[place] = rng.integers(0, 256)
        try:
            decode(bytes(broken))
        except BadRecordError:
            refused += 1
    assert refused > 20
