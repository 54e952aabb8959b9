"""Builds the emulation and prints its path. Torch keeps it from run to run, and builds it anew where its source has changed."""

from pathlib import Path

from torch.utils.cpp_extension import load

SOURCE = Path(__file__).parent / "emulation.cpp"

if __name__ == "__main__":
    print(load("hpu_emulation", [str(SOURCE)], extra_cflags=["-O1"], is_python_module=False))
