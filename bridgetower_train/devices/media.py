"""Decoding on a Gaudi2 or Gaudi3 card, from bytes: written after the vendor's package, which no card has confirmed.

The lines are those of habana-media-loader 1.24.1.482, below habana_frameworks/mediapipe: a reader of ours, which says BUFFER_LIST
(operators/reader_nodes/reader_nodes.py:120-178), gives numpy buffers, whose addresses and sizes go to the card
(backend/legacy.py:145-158). Only the device `legacy` does that (mediapipe.py:59-64).
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from bridgetower_train.data.image import decode_square

_PACKAGE = "habana_frameworks.mediapipe"
_ALIGNED = (
    64  # bytes, to whose multiple their own reader pads (operators/reader_nodes/read_image_from_dir_buf.py:289-292)
)
_BATCHES = 20


def installed() -> bool:
    """Whether the vendor's package is installed."""
    return find_spec("habana_frameworks") is not None and find_spec(_PACKAGE) is not None


def decoding_rate(jpegs: list[bytes], size: int, synchronize: Callable[[], None]) -> tuple[float, float]:
    """(images per second that the card decodes to squares of `size`, mean difference of their values from ours, of 255)."""
    from habana_frameworks.mediapipe import fn  # type: ignore[import-not-found]
    from habana_frameworks.mediapipe import media_types as types
    from habana_frameworks.mediapipe.mediapipe import MediaPipe  # type: ignore[import-not-found]
    from habana_frameworks.mediapipe.operators.reader_nodes import reader_nodes  # type: ignore[import-not-found]
    from habana_frameworks.mediapipe.plugins.iterator_pytorch import (  # type: ignore[import-not-found]
        HPUGenericPytorchIterator,
    )

    buffers = np.empty(len(jpegs), dtype=object)
    buffers[:] = [np.frombuffer(jpeg + bytes(-len(jpeg) % _ALIGNED), np.uint8) for jpeg in jpegs]

    class Buffers(reader_nodes.media_ext_reader_op_impl):  # type: ignore[misc]
        def __init__(self, params: Any, fw_params: Any) -> None:
            self.left = 0

        def __iter__(self) -> "Buffers":
            self.left = _BATCHES
            return self

        def __next__(self) -> Any:
            if not self.left:
                raise StopIteration
            self.left -= 1
            return buffers

        def __len__(self) -> int:
            return _BATCHES

        def gen_output_info(self) -> Any:
            return reader_nodes.media_ext_reader_op_tensor_info(types.dtype.NDT, np.array([len(jpegs)], np.uint32), "")

        def get_largest_file(self) -> str:
            return ""

        def get_media_output_type(self) -> Any:
            return types.readerOutType.BUFFER_LIST

    class Pipe(MediaPipe):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(device="legacy", prefetch_depth=3, batch_size=len(jpegs), pipe_name="buffers")
            self.read = fn.MediaExtReaderOp(impl=Buffers)
            self.decode = fn.ImageDecoder(
                output_format=types.imgtype.RGB_P, resize=[size, size], resampling_mode=types.ftype.BICUBIC
            )

        def definegraph(self) -> Any:
            return self.decode(self.read())

    pipe = Pipe()
    pipe.build()
    batches = iter(HPUGenericPytorchIterator(mediapipe=pipe))
    first = next(batches)[0].cpu()
    synchronize()
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch[0])
    synchronize()
    taken = time.perf_counter() - began
    return count / taken, _difference(first, jpegs, size)


def _difference(theirs: torch.Tensor, jpegs: list[bytes], size: int) -> float:
    ours = np.empty((len(jpegs), size, size, 3), np.uint8)
    for jpeg, out in zip(jpegs, ours, strict=True):
        decode_square(jpeg, size, "squash", out)
    return float((theirs.float() - torch.from_numpy(ours).permute(0, 3, 1, 2).float()).abs().mean())
