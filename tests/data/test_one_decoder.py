"""Whoever reads an image, it is the same upright picture: each odd image through each reader."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from helpers import open_pairs
from PIL import Image, ImageOps
from toy import toy_text

from bridgetower_train.commands.predict import read_image
from bridgetower_train.config import DataConfig, ModelConfig, TrainConfig
from bridgetower_train.data.augment import rand_augment
from bridgetower_train.data.image import check_image, decode, decode_square
from bridgetower_train.data.shards import BadRecordError, open_corpus
from bridgetower_train.errors import UserError
from bridgetower_train.evaluation.eval_set import EvalSet
from bridgetower_train.pages.images import thumbnail
from data_prep.inspect.lint_shard import check_shard
from data_prep.inspect.places import CorporaConfig, Place
from data_prep.inspect.stats import StatsConfig, view_corpus
from data_prep.shards.index import build_index
from data_prep.source.image import prepare_jpeg
from tests.hostile.attacks import attack

SIZE, MAIN = 64, 100
"""Edge that is read, and shorter edge of the odd images; the longer one is half as long again."""
_y, _x = np.mgrid[:MAIN, : MAIN * 3 // 2] / MAIN
COLOURS = (np.stack([_x * 150, _y * 240, 200 - _x * 60], -1)).astype(np.uint8)
"""No turn or flip of it is like another."""
GREY = COLOURS[..., :1].repeat(3, -1)
CLEAR = (_x + _y > 1.2)[..., None]
ON_WHITE = np.where(CLEAR, 255, COLOURS).astype(np.uint8)
RGBA = np.concatenate([COLOURS, np.where(CLEAR, 0, 255)], -1).astype(np.uint8)
"""COLOURS, its lower right corner transparent."""


def encoded(pixels, kind, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    (image.convert(mode) if mode else image).save(out, kind, **options)
    return out.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(pixels, transparent=None):
    """A PNG of 16 bits from uint16 (height, width, channels)."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    parts = chunk(b"IHDR", header) + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def wide(pixels):
    """uint8 to the same in 16 bits, the lower byte of which is noise."""
    return pixels.astype(np.uint16) * 256 + np.random.default_rng(0).integers(0, 255, pixels.shape, np.uint16)


def clear_grey():
    grey = wide(GREY[..., :1])
    grey[CLEAR] = 12_345
    return png16(grey, [12_345])


def late_exif():
    """A PNG whose EXIF follows the pixels, as exiftool writes it."""
    png, exif = encoded(COLOURS, "PNG"), turned(6).tobytes().removeprefix(b"Exif\0\0")
    return png[:-12] + chunk(b"eXIf", exif) + png[-12:]


def frames(kind, **options):
    """An animation: COLOURS, then black."""
    black = Image.new("RGB", COLOURS.shape[1::-1])
    return encoded(COLOURS, kind, save_all=True, append_images=[black], **options)


def as_seen(orientation):
    image = Image.fromarray(COLOURS)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


JPEG = encoded(COLOURS, "JPEG", quality=95)
PALETTE = Image.fromarray(COLOURS).quantize(200)
ODD = {
    "plain": (JPEG, COLOURS),
    "progressive": (encoded(COLOURS, "JPEG", quality=95, progressive=True), COLOURS),
    "grey jpeg": (encoded(GREY, "JPEG", "L", quality=95), GREY),
    "cmyk": (encoded(COLOURS, "JPEG", "CMYK", quality=95), COLOURS),
    "cmyk turned": (encoded(COLOURS, "JPEG", "CMYK", quality=95, exif=turned(8)), as_seen(8)),
    "mpo": (encoded(COLOURS, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))], quality=95), COLOURS),
    "bytes between segments": (JPEG.replace(b"\xff\xdb", b"abc\xff\xff\xdb", 1), COLOURS),
    "turned, bytes between": (
        encoded(COLOURS, "JPEG", quality=95, exif=turned(6)).replace(b"\xff\xdb", b"abc\xff\xdb", 1),
        as_seen(6),
    ),
    "much larger": (encoded(np.kron(COLOURS, np.ones((9, 9, 1), np.uint8)), "JPEG", quality=95), COLOURS),
    "small": (encoded(COLOURS[::4, ::4], "JPEG", quality=95), None),
    "grey png": (encoded(GREY, "PNG", "L"), GREY),
    "palette": (encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "palette, transparent": (encoded(Image.fromarray(RGBA).quantize(200), "PNG"), ON_WHITE),
    "1 bit": (encoded(CLEAR[..., 0], "PNG"), np.where(CLEAR, 255, 0).astype(np.uint8).repeat(3, -1)),
    "transparent": (encoded(RGBA, "PNG"), ON_WHITE),
    "grey, transparent": (encoded(RGBA, "PNG", "LA"), None),
    "16-bit grey": (png16(wide(GREY[..., :1])), GREY),
    "16-bit grey, one clear": (clear_grey(), np.where(CLEAR, 255, GREY).astype(np.uint8)),
    "16-bit grey, transparent": (
        png16(wide(np.concatenate([GREY[..., :1], RGBA[..., 3:]], -1)) // 256 * 257),
        np.where(CLEAR, 255, GREY).astype(np.uint8),
    ),
    "16-bit colours": (png16(wide(COLOURS)), COLOURS),
    "png turned": (encoded(COLOURS, "PNG", exif=turned(6)), as_seen(6)),
    "png turned late": (late_exif(), as_seen(6)),
    "apng": (frames("PNG"), COLOURS),
    "webp": (encoded(COLOURS, "WEBP", lossless=True), COLOURS),
    "webp turned": (encoded(COLOURS, "WEBP", lossless=True, exif=turned(7)), as_seen(7)),
    "webp, transparent": (encoded(RGBA, "WEBP", lossless=True), ON_WHITE),
    "animated webp": (frames("WEBP", lossless=True), COLOURS),
    "gif": (encoded(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    "gif, transparent": (encoded(RGBA, "GIF"), ON_WHITE),
    "animated gif": (encoded(PALETTE, "GIF", save_all=True, append_images=[Image.new("RGB", PALETTE.size)]), None),
    "bmp": (encoded(COLOURS, "BMP"), COLOURS),
} | {f"turned {n}": (encoded(COLOURS, "JPEG", quality=95, exif=turned(n)), as_seen(n)) for n in range(1, 9)}
"""Name -> (bytes, the picture that one sees; None: that of the other readers will do)."""


def by_pillow(pixels, square):
    """What `decode_square` makes of such a picture."""
    height, width = pixels.shape[:2]
    shape = SIZE * width // min(pixels.shape[:2]), SIZE * height // min(pixels.shape[:2])
    shape = (SIZE, SIZE) if square == "squash" else shape
    image = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(shape, Image.Resampling.BICUBIC))
    top, left = round((shape[1] - SIZE) / 2), round((shape[0] - SIZE) / 2)
    return image[top : top + SIZE, left : left + SIZE]


def squared(data, square="crop"):
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    decode_square(data, SIZE, square, out)
    return out


def run_on(root, square="crop"):
    """A run that reads the corpus `odd`."""
    return TrainConfig(
        steps="10",
        global_batch=4,
        model=ModelConfig(image_size=SIZE, patch_size=SIZE),
        data=DataConfig(root=str(root), corpora={"odd": 1.0}, lanes=1, square=square),
    )


both = pytest.mark.parametrize("square", ["crop", "squash"])


def rounding(name):
    """How far JPEG may change it, mean of the levels: the bands of a palette more than smooth colours."""
    return 3 if "gif" in name or "palette" in name else 1.5


def assert_alike(one, other, mean):
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).mean() <= mean


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_tar):
    """A root whose corpus `odd` has every odd image, indexed where it lies."""
    folder = tmp_path_factory.mktemp("root") / "odd"
    members = [
        member
        for number, (data, _) in enumerate(ODD.values())
        for member in ((f"{number:02}.jpg", data), (f"{number:02}.json", b'{"caption": "text"}'))
    ]
    make_tar(folder / "0.tar", members)
    assert build_index(folder).images == len(ODD)
    return folder.parent


@attack(19)
@both
@pytest.mark.parametrize("name", ODD)
def test_it_is_read_as_one_sees_it(name, square):
    data, seen = ODD[name]
    if seen is None:
        return
    assert_alike(squared(data, square), by_pillow(seen, square), rounding(name))
    if name != "much larger":
        assert decode(data).shape == seen.shape
        assert check_image(data).upright_size() == seen.shape[1::-1]


@pytest.mark.parametrize("name", ODD)
def test_a_preparation_stores_what_the_loader_reads(name):
    data, _ = ODD[name]
    assert_alike(squared(prepare_jpeg(data, SIZE)), squared(data), rounding(name))


@both
def test_training_evaluation_and_prediction_read_the_same(root, tmp_path, square):
    wanted = [squared(data, square) for data, _ in ODD.values()]
    dataset = open_pairs(run_on(root, square), toy_text())
    rows = [sample.row for sample in dataset.order.take(range(len(ODD)))]
    trained = dataset.__getitems__(range(len(ODD)))
    assert not trained.bad
    evaluated, bad = EvalSet(open_corpus(str(root), "odd"), run_on(root, square)).read(slice(0, len(ODD)))
    assert not bad
    for place, row in enumerate(rows):
        assert np.array_equal(trained.pixel_values[place].permute(1, 2, 0), wanted[row]), list(ODD)[row]
    for row, (name, (data, _)) in enumerate(ODD.items()):
        assert np.array_equal(evaluated[row].permute(1, 2, 0), wanted[row]), name
        (tmp_path / "image").write_bytes(data)
        predicted = read_image(str(tmp_path / "image"), run_on(root, square)).permute(1, 2, 0).numpy()
        assert_alike(predicted, wanted[row], rounding(name))


def test_lint_and_stats_accept_them(root):
    place = Place(str(root), "odd")
    assert not check_shard(CorporaConfig(root=str(root)), None, None, (place, 0)).faults
    view = view_corpus(open_corpus(str(root), "odd"), StatsConfig(root=str(root), images=len(ODD)), None)
    shapes = next(drawn for drawn in view.distributions if drawn.title == "Width / height")
    upright = sum(1 for _, seen in ODD.values() if seen is not None and seen.shape[0] > seen.shape[1])
    assert shapes.counts[np.asarray(shapes.values) < 1].sum() == upright
    assert len(view.samples) == len(ODD)


def test_an_augmented_image_is_upright():
    data, seen = ODD["turned 6"]
    augmented = rand_augment(decode(data), SIZE, seed=0, image_index=0)
    assert_alike(augmented, rand_augment(np.ascontiguousarray(seen), SIZE, seed=0, image_index=0), 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (60, 1)])
def test_a_narrow_image_is_enlarged(shape):
    data = encoded(np.full((*shape, 3), 90, np.uint8), "PNG")
    assert (squared(data) == 90).all()
    assert_alike(squared(prepare_jpeg(data, SIZE)), squared(data), 1)


@attack(18)
@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1)])
def test_one_that_is_too_narrow_is_refused_by_all(shape, tmp_path):
    data = encoded(Image.new("1", shape), "PNG")
    for read in (squared, lambda data: prepare_jpeg(data, SIZE)):
        with pytest.raises(BadRecordError) as refusal:
            read(data)
        assert refusal.value.reason == "too narrow"
    (tmp_path / "thread.png").write_bytes(data)
    with pytest.raises(UserError, match=r"image=.*: too narrow"):
        read_image(str(tmp_path / "thread.png"), run_on(tmp_path))


def test_a_page_shows_a_thumbnail_upright():
    uri = thumbnail("data:image/jpeg;base64," + base64.b64encode(ODD["turned 6"][0]).decode(), 60)
    assert uri is not None
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert shown.size == (40, 60)
    for odd in ("gif", "bmp", "webp"):
        assert thumbnail(f"data:image/{odd};base64," + base64.b64encode(ODD[odd][0]).decode()) is None
