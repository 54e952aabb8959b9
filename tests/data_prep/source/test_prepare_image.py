"""Any image becomes a JPEG of the right size, or is refused with a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from bridgetower_train.data.shards import BadRecordError
from data_prep.source.image import prepare_jpeg


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, dict(image.getexif())) == ("JPEG", "RGB", {})
    return np.asarray(image).astype(int)


RED = Image.new("RGB", (90, 60), (200, 30, 40))


@pytest.mark.parametrize(
    ("source", "colour"),
    [
        (RED, (200, 30, 40)),
        (encoded(RED, "JPEG", quality=95), (200, 30, 40)),
        (encoded(RED, "PNG"), (200, 30, 40)),
        (encoded(RED, "WEBP", lossless=True), (200, 30, 40)),
        (encoded(RED.quantize(4), "PNG"), (200, 30, 40)),
        (encoded(RED.convert("L"), "JPEG"), (82, 82, 82)),
        (encoded(RED.convert("CMYK"), "JPEG", quality=95), (200, 30, 40)),
        (encoded(RED, "JPEG", quality=95).replace(b"\xff\xda", b"\0\0\0\xff\xda", 1), (200, 30, 40)),
        (encoded(Image.fromarray(np.full((60, 90), 90 * 256, np.uint16)), "PNG"), (90, 90, 90)),
        (encoded(Image.new("RGBA", (90, 60), (200, 30, 40, 0)), "PNG"), (255, 255, 255)),
        (encoded(Image.new("RGBA", (90, 60), (0, 0, 0, 128)), "PNG"), (127, 127, 127)),
        (encoded(Image.new("LA", (90, 60), (0, 0)), "PNG"), (255, 255, 255)),
        (encoded(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (90, 60))]), (200, 30, 40)),
    ],
    ids=[
        "image",
        "jpeg",
        "png",
        "webp",
        "palette",
        "grey",
        "cmyk",
        "stray-bytes",
        "16-bit",
        "clear",
        "half-clear",
        "grey-alpha",
        "animated",
    ],
)
def test_prepare_jpeg_takes_any_kind_of_image(source, colour):
    pixels = opened(prepare_jpeg(source, 40))
    assert pixels.shape == (40, 60, 3)
    assert np.abs(pixels - colour).max() <= 6


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (31, 57), (1000, 41), (64, 64), (333, 294), (7, 5)])
def test_the_shorter_edge_is_exact(size):
    image = Image.open(io.BytesIO(prepare_jpeg(Image.new("RGB", size), 64)))
    assert min(image.size) == 64
    assert max(image.size) == 64 * max(size) // min(size)


def test_prepare_jpeg_turns_as_exif_says():
    left_red = Image.new("RGB", (60, 40))
    left_red.paste((255, 0, 0), (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    pixels = opened(prepare_jpeg(encoded(left_red, "JPEG", quality=95, exif=exif), 40))
    assert pixels.shape == (60, 40, 3)
    assert pixels[5, 20, 0] > 240
    assert pixels[55, 20, 0] < 15


def test_no_metadata_stay():
    data = prepare_jpeg(encoded(RED, "JPEG", comment=b"secret", icc_profile=b"profile" * 9, dpi=(300, 300)), 40)
    assert b"secret" not in data
    assert b"profile" not in data


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"\xc5", b"MM\0*", b"II*\0" + b"\xff" * 40])
def test_broken_exif_does_not_cost_the_image(exif):
    data = encoded(RED, "JPEG", exif=b"Exif\0\0" + exif)
    assert opened(prepare_jpeg(data, 40)).shape == (40, 60, 3)


def test_prepare_jpeg_is_plain_bicubic(shared):
    for path in sorted((shared / "photos" / "coco" / "val2017").glob("*.jpg"))[:3]:
        image = Image.open(path).convert("RGB")
        size = tuple(294 * edge // min(image.size) for edge in image.size)
        expected = encoded(image.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=95)
        difference = np.abs(opened(prepare_jpeg(path.read_bytes(), 294)) - opened(expected))
        assert difference.mean() < 0.5
        assert difference.max() <= 8


def test_a_large_image_is_shrunk_while_decoding_without_harm():
    noise = np.random.default_rng(0).normal(128, 60, (400, 600)).clip(0, 255).astype(np.uint8)
    noise = Image.fromarray(noise).resize((1200, 800), Image.Resampling.BICUBIC).convert("RGB")
    data = encoded(noise, "JPEG", quality=95)
    expected = encoded(Image.open(io.BytesIO(data)).resize((150, 100), Image.Resampling.BICUBIC), "JPEG", quality=95)
    assert np.abs(opened(prepare_jpeg(data, 100)) - opened(expected)).mean() < 1.5


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "not an image"),
        (b"<!DOCTYPE html><html>404</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(RED, "JPEG")[:300], "not an image"),
        (encoded(Image.effect_noise((300, 300), 50), "JPEG")[:-4000], "image cannot be decoded"),
        (encoded(Image.effect_noise((300, 300), 50), "PNG")[:-4000], "image cannot be decoded"),
        (encoded(Image.new("1", (10_001, 10_001)), "PNG"), "more than 100 megapixels"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "more than 100 megapixels"),
        (encoded(Image.new("1", (3000, 1)), "PNG"), "too narrow"),
    ],
    ids=["empty", "html", "postscript", "header-cut", "jpeg-cut", "png-cut", "bomb", "larger-bomb", "thread"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_prepare_jpeg_refuses(source, reason):
    with pytest.raises(BadRecordError) as refusal:
        prepare_jpeg(source, 64)
    assert refusal.value.reason == reason


def test_any_cut_of_a_image_is_refused_or_whole():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = encoded(Image.effect_noise((40, 40), 50).convert("RGB"), kind)
        for length in range(0, len(data), max(1, len(data) // 40)):
            try:
                prepare_jpeg(data[:length], 16)
            except BadRecordError:
                continue
            assert length > 0.9 * len(data), (kind, length)
