"""Safetensors files: written and hashed at once without copying the tensors, and read once for all ranks.

Format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import CheckpointError
from bridgetower_train.files import open_direct, write_direct
from bridgetower_train.foreign import open_regular, parse_json

Read = Callable[[str, torch.Size], Tensor]
"""(name, shape) -> a new float32 host tensor. Called on all ranks with the same arguments in the same order."""

_BLOCK = 1 << 24
_LONGEST_HEADER = 100_000_000  # bytes, as in the library
_DAMAGE = (OSError, ValueError, LookupError, TypeError, OverflowError)


@contextmanager
def shared_tensors(path: Path, ranks: Ranks, some: bool = False) -> Iterator[Read]:
    """The tensors of a file, all of which must be read inside the block, unless only `some` are wanted.

    Only rank 0 opens the file, and broadcasts one tensor at a time. If it fails to read one it keeps broadcasting, so that no
    rank hangs, and at the end of the block all ranks raise CheckpointError.
    """
    failure: str | None = None
    file: _File | None = None
    with ExitStack() as stack:
        if ranks.is_main:
            try:
                file = _File(stack.enter_context(open_regular(path)))
            except _DAMAGE as error:
                failure = str(error)

        def read(name: str, shape: torch.Size) -> Tensor:
            nonlocal failure
            tensor = torch.empty(shape)
            if file is not None and failure is None:
                try:
                    file.fill(name, tensor)
                except _DAMAGE as error:
                    failure = str(error)
            ranks.broadcast([tensor])
            return tensor

        yield read
    if file is not None and failure is None and file.entries and not some:
        failure = f"it contains {', '.join(list(file.entries)[:3])}, which the model does not have"
    message = failure and f"cannot read {path}: {failure}. Move this checkpoint away to resume from the one before it"
    message = ranks.gather_objects(message)[0]
    if message is not None:
        raise CheckpointError(message)


class _File:
    """An open file and its tensors yet to be read. The library would map the whole file, which takes memory and is slower."""

    def __init__(self, file: BufferedReader) -> None:
        self.file = file
        size = int.from_bytes(file.read(8), "little")
        if size > _LONGEST_HEADER:
            raise ValueError(f"its header has {size:,} bytes, and {_LONGEST_HEADER:,} are allowed")
        self.entries = parse_json(file.read(size), dict[str, dict[str, Any]], "its header")
        self.entries.pop("__metadata__", None)
        self.begin = 8 + size

    def fill(self, name: str, tensor: Tensor) -> None:
        """Read a tensor into a contiguous one, and remove it from `entries`."""
        if name not in self.entries:
            raise ValueError(f"it does not contain {name}")
        entry = self.entries.pop(name)
        if (entry["dtype"], entry["shape"]) != ("F32", list(tensor.shape)):
            raise ValueError(f"{name} is {entry['dtype']} {entry['shape']}, the model's is F32 {list(tensor.shape)}")
        self.file.seek(self.begin + entry["data_offsets"][0])
        if self.file.readinto(_bytes(tensor)) != tensor.nbytes:
            raise ValueError(f"it ends within {name}")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write contiguous float32 host tensors as a safetensors file, synced to disk; returns its SHA-256.

    safetensors' `save_file` would copy all tensors, and the file would have to be read again for its hash.
    """
    pieces = [memoryview(_header(tensors)), *map(_bytes, tensors.values())]
    with ThreadPoolExecutor(1, "hash") as thread:
        digest = thread.submit(_sha256, pieces)  # both hashing and writing release the GIL
        _write(path, pieces)
    return digest.result()


def _write(path: Path, pieces: list[memoryview]) -> None:
    """Write and sync a file, a block at a time, from page-aligned memory as direct I/O requires."""
    block = np.frombuffer(mmap.mmap(-1, _BLOCK), np.uint8)
    with open_direct(path) as descriptor:
        filled = 0
        for piece in pieces:
            rest = np.frombuffer(piece, np.uint8)
            while len(rest):
                part, rest = np.split(rest, [_BLOCK - filled])
                block[filled : filled + len(part)] = part
                filled += len(part)
                if filled == _BLOCK:
                    write_direct(descriptor, block.data)
                    filled = 0
        write_direct(descriptor, block.data[: -(-filled // mmap.PAGESIZE) * mmap.PAGESIZE])
        os.ftruncate(descriptor, sum(map(len, pieces)))
        os.fsync(descriptor)


def _header(tensors: dict[str, Tensor]) -> bytes:
    entries, end = {}, 0
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32, f"{name}: {tensor.dtype}"
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.view(-1).numpy().data.cast("B")


def _sha256(pieces: Iterable[memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
