"""Decoding on the card, by a double of the vendor's package: it hands buffers on as the wheel does, and decodes with Pillow."""

import io
import sys
from ctypes import POINTER, c_uint8
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bridgetower_train.devices import media
from data_prep.shapes.synthetic import synthetic_photo

PARTS = (
    ".fn",
    ".media_types",
    ".mediapipe",
    ".operators",
    ".operators.reader_nodes",
    ".plugins",
    ".plugins.iterator_pytorch",
)


class Reader:
    """`fn.MediaExtReaderOp`: makes the reader, and asks it what it gives (backend/cal.py:514-520)."""

    def __init__(self, impl):
        self.impl = impl(SimpleNamespace(), SimpleNamespace(batch_size=4))

    def __call__(self):
        assert self.impl.get_media_output_type() == 1
        assert self.impl.get_largest_file() == ""
        assert self.impl.gen_output_info()
        return self.impl


class Decoder:
    """`fn.ImageDecoder`: reads addresses and lengths (backend/legacy.py:145-158)."""

    def __init__(self, output_format, resize, resampling_mode):
        assert (output_format, resampling_mode) == ("rgb-p", 4)
        self.size = tuple(resize)

    def __call__(self, reader):
        return self, reader

    def decode(self, buffers):
        assert all(len(buffer) % 64 == 0 for buffer in buffers)
        read = [np.ctypeslib.as_array(buffer.ctypes.data_as(POINTER(c_uint8)), (len(buffer),)) for buffer in buffers]
        images = [Image.open(io.BytesIO(bytes(one))).resize(self.size, Image.Resampling.BICUBIC) for one in read]
        return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in images])


class Pipe:
    """`MediaPipe`."""

    def __init__(self, device, prefetch_depth, batch_size, pipe_name):
        assert device == "legacy"

    def build(self):
        self.decoder, self.reader = self.definegraph()


class Batches:
    """`HPUGenericPytorchIterator`."""

    def __init__(self, mediapipe):
        self.pipe = mediapipe

    def __iter__(self):
        return ([self.pipe.decoder.decode(buffers)] for buffers in iter(self.pipe.reader))


@pytest.fixture
def package(monkeypatch):
    """The double, in the place of the package."""
    monkeypatch.setitem(sys.modules, "habana_frameworks", ModuleType("habana_frameworks"))
    modules = {name: ModuleType(f"habana_frameworks.mediapipe{name}") for name in ("", *PARTS)}
    for name, module in modules.items():
        module.__path__ = []
        monkeypatch.setitem(sys.modules, f"habana_frameworks.mediapipe{name}", module)
    modules[""].fn, modules[""].media_types = modules[".fn"], modules[".media_types"]
    modules[".fn"].MediaExtReaderOp, modules[".fn"].ImageDecoder = Reader, Decoder
    types = modules[".media_types"]
    types.dtype, types.ftype = SimpleNamespace(NDT="ndt"), SimpleNamespace(BICUBIC=4)
    types.imgtype, types.readerOutType = SimpleNamespace(RGB_P="rgb-p"), SimpleNamespace(BUFFER_LIST=1)
    modules[".mediapipe"].MediaPipe = Pipe
    modules[".operators.reader_nodes"].reader_nodes = SimpleNamespace(
        media_ext_reader_op_impl=object, media_ext_reader_op_tensor_info=lambda *shape: shape
    )
    modules[".plugins.iterator_pytorch"].HPUGenericPytorchIterator = Batches


def test_the_card_decodes_what_we_decode(package):
    rate, off = media.decoding_rate([synthetic_photo(number, 64) for number in range(4)], 64, lambda: None)
    assert rate > 0
    assert off < 3, "of 255"


def test_without_the_package():
    assert not media.installed()
