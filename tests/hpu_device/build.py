"""Builds the emulation and prints its path. It is kept from run to run: one for each version of its source and of torch."""

import os
import tempfile
from hashlib import sha256
from pathlib import Path

import torch
from torch.utils.cpp_extension import get_default_build_root, load

SOURCE = Path(__file__).parent / "emulation.cpp"

if __name__ == "__main__":
    version = sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:12]
    name, cache = f"hpu_emulation_{version}", Path(get_default_build_root())
    built = cache / f"{name}.so"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # In a folder of its own: torch waits for ever for the lock of a build that was killed.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = load(name, [str(SOURCE)], extra_cflags=["-O1"], is_python_module=False, build_directory=folder)
            os.replace(made, built)
    print(built)
