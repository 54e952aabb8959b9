"""Writing safetensors files and hashing them at the same time, from memory and without another copy of it."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write contiguous float32 host tensors as a safetensors file, synced to disk; returns its SHA-256.

    safetensors' own `save_file` would copy all of them once more, and the file would have to be read again for its hash.
    Format: https://github.com/huggingface/safetensors#format
    """
    pieces: list[bytes | memoryview] = [_header(tensors), *map(_bytes, tensors.values())]
    with ThreadPoolExecutor(1, "hash") as thread, path.open("wb") as file:
        digest = thread.submit(_sha256, pieces)  # neither hashing nor writing holds the interpreter's lock
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.result()


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


def _sha256(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
