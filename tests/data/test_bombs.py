"""Small files that would take much time or memory to decode are bad records, wherever they are read."""

import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from helpers import open_pairs
from PIL import Image
from toy import toy_text

from bridgetower_train.config import DataConfig, ModelConfig, TrainConfig
from bridgetower_train.data.image import MAX_SECONDS, decode
from bridgetower_train.data.shards import BadRecordError
from data_prep.inspect.lint_shard import check_shard
from data_prep.inspect.places import CorporaConfig, Place
from data_prep.shards.index import build_index
from data_prep.shards.writer import write_corpus
from data_prep.source.image import prepare_jpeg
from tests.hostile.attacks import attack

SIZE = 64


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg_of_scans(scans, width=SIZE, height=SIZE):
    """A progressive JPEG with further scans of nothing: 11 bytes each for as many pixels as you like."""
    data = encoded(Image.new("RGB", (width, height), "grey"), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, before=b"", pixels=b""):
    """A PNG with further chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def inflating(megabytes):
    return zlib.compress(bytes(megabytes * 1_000_000))


GREY = Image.new("RGB", (SIZE, SIZE), "grey")
JPEG, GIF = encoded(GREY, "JPEG"), encoded(GREY, "GIF")
PALETTE = 13 + 3 * (2 << (GIF[10] & 7))  # where it ends
ROWS = zlib.compress(bytes((3 * SIZE + 1) * SIZE))
TEXTS = b"".join(chunk(b"zTXt", b"k%d\0\0" % n + inflating(1)) for n in range(200))
SEGMENT = b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)
PROFILE = b"\xff\xe2\xff\xffICC_PROFILE\0\1\1" + bytes(65_519)
RLE = b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + struct.pack("<IiiHHIIiiII", 40, 3000, 3000, 1, 8, 1, 0, 0, 0, 0, 0)
BOMBS = {
    "megapixels": (png(10_001, 10_001), "more than 100 megapixels"),
    "transparent": (png(10_000, 9_900, colour=6), "more than 512 MB to decode"),
    "16 bits": (png(10_000, 9_900, 16, 6), "more than 512 MB to decode"),
    "scans": (jpeg_of_scans(1000), "more than 500 scans"),
    "scans of many pixels": (jpeg_of_scans(400, 2500, 2500), "more than 2 s to decode"),
    "text": (png(SIZE, SIZE, before=chunk(b"zTXt", b"k\0\0" + inflating(200)), pixels=ROWS), None),
    "texts": (png(SIZE, SIZE, before=TEXTS, pixels=ROWS), None),
    "profile": (png(SIZE, SIZE, before=chunk(b"iCCP", b"k\0\0" + inflating(200)), pixels=ROWS), None),
    "chunks": (png(SIZE, SIZE, before=chunk(b"prVt", b"") * 300_000, pixels=ROWS), "image cannot be decoded"),
    "chunks of pixels": (png(SIZE, SIZE, pixels=b"")[:-12] + chunk(b"IDAT", b"") * 300_000, "image cannot be decoded"),
    "comments": (GIF[:PALETTE] + b"!\xfe" + b"\1a" * 4_000_000 + b"\0" + GIF[PALETTE:], "image cannot be decoded"),
    "runs": (RLE + bytes(1024) + b"\1\1" * 4_000_000, "image cannot be decoded"),
    "segments": (JPEG[:2] + b"\xff\xfe\0\2" * 4_000_000 + JPEG[2:], "image cannot be decoded"),
    "fill bytes": (JPEG[:2] + b"\xff\0" * 4_000_000 + JPEG[2:], "image cannot be decoded"),
    "exif": (JPEG[:2] + SEGMENT * 250 + JPEG[2:], None),
    "icc": (JPEG[:2] + PROFILE * 250 + JPEG[2:], None),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "tiff": (encoded(GREY, "TIFF"), "not an image"),
}
"""Name -> (bytes, why they are refused; None: whether they are does not matter, but it must be soon)."""


@attack(18)
@attack(19)
@attack(20)
@attack(21)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Corrupt EXIF")
@pytest.mark.parametrize("read", [lambda data: decode(data, SIZE), lambda data: prepare_jpeg(data, SIZE)])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name, read):
    data, reason = BOMBS[name]
    start, refusal = time.process_time(), None
    try:
        read(data)
    except BadRecordError as error:
        refusal = error.reason
    assert time.process_time() - start < MAX_SECONDS / 2
    assert reason in (refusal, None)


@pytest.mark.parametrize("scans", [10, 400])
def test_many_scans_of_few_pixels_are_read(scans):
    assert (np.abs(decode(jpeg_of_scans(scans), SIZE).astype(int) - 128) < 2).all()


def test_a_bomb_in_a_corpus_is_replaced_in_training_and_named_by_lint(tmp_path):
    images = [jpeg_of_scans(1000) if n == 3 else JPEG for n in range(8)]
    write_corpus(tmp_path / "c", SIZE, ((f"{n}", image, ["text"], {}) for n, image in enumerate(images)), 8)
    model = ModelConfig(image_size=SIZE, patch_size=SIZE)
    config = TrainConfig(
        steps="1", global_batch=8, model=model, data=DataConfig(root=str(tmp_path), corpora={"c": 1.0}, lanes=1)
    )
    batch = open_pairs(config, toy_text()).__getitems__(range(8))
    assert [(bad.key, bad.reason) for bad in batch.bad] == [("3", "more than 500 scans")]
    (found,) = check_shard(CorporaConfig(root=str(tmp_path)), None, None, (Place(str(tmp_path), "c"), 0)).faults
    assert (found.key, found.reason) == ("3", "more than 500 scans")


def test_a_bomb_is_not_indexed(tmp_path, make_tar):
    records = {"a.jpg": JPEG, "a.txt": b"text", "b.jpg": jpeg_of_scans(1000), "b.txt": b"text"}
    make_tar(tmp_path / "0.tar", records)
    assert build_index(tmp_path).dropped == {"more than 500 scans": 1}


PEAK = """
import resource, sys
from bridgetower_train.data.image import decode

def peak(file):
    decode(open(file, "rb").read())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small, large = map(peak, sys.argv[1:])
print(large - small)
"""


@attack(21)
@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        ("PNG", {"compress_level": 1}, 8),
        ("WEBP", {"lossless": True, "quality": 0, "method": 0}, 20),
        ("JPEG", {"progressive": True, "subsampling": 0}, 10),
    ],
)
def test_decoding_takes_the_memory_that_the_check_expects(kind, options, most, tmp_path):
    """`most`: bytes a pixel, in a process of its own."""
    noise = Image.effect_noise((1000, 1000), 50).resize((2500, 2500), Image.Resampling.NEAREST)
    image = Image.merge("RGB" if kind == "JPEG" else "RGBA", [noise] * (3 if kind == "JPEG" else 4))
    (tmp_path / "small").write_bytes(encoded(GREY, kind))
    (tmp_path / "large").write_bytes(encoded(image, kind, **options))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < most * 2500**2
