"""Builds the emulation and prints its path. Torch keeps it from run to run: one for each version of the source."""

from hashlib import sha256
from pathlib import Path

from torch.utils.cpp_extension import load

SOURCE = Path(__file__).parent / "emulation.cpp"

if __name__ == "__main__":
    name = f"hpu_emulation_{sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    print(load(name, [str(SOURCE)], extra_cflags=["-O1"], is_python_module=False))
