"""What `torch.load(weights_only=True)` checks from torch 2.10 on, for the older ones that Gaudi's images carry.

Before, a pickle could assign items of a tensor, and claim more elements for one than its file has: memory was overwritten
(CVE-2026-24747). Here a copy of the pickle's objects is built in which all but dictionaries are inert.
"""

import pickle
import zipfile
from collections import OrderedDict
from typing import IO, Any

import torch
from packaging.version import Version

CHECKED_BY_TORCH = Version(torch.__version__).release >= (2, 10)
_HEADS = 3  # pickles before the objects in a file of before torch 1.6


class _Inert:
    """Stands for whatever a pickle names: takes any arguments and state, and has no items."""

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass


class _Copy(pickle.Unpickler):
    """`sizes`: bytes of each storage in the archive; None where torch itself compares them."""

    def __init__(self, file: IO[bytes], sizes: dict[str, int] | None) -> None:
        super().__init__(file, encoding="utf-8")
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> type:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> _Inert:
        if self.sizes is not None:
            _, kind, key, _, elements = pid
            width = 1 if kind.__name__ == "UntypedStorage" else getattr(torch, kind.__name__)._dtype.itemsize
            if not 0 <= elements * width <= self.sizes[key]:
                raise pickle.UnpicklingError(f"storage {key} is shorter than its tensors")
        return _Inert()


def check_pickle(file: IO[bytes]) -> None:
    """Raise an error of any kind where a file of `torch.save`, or an archive of TorchScript, does what no state dict needs."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        for _ in range(_HEADS + 1):
            _Copy(file, None).load()
        return
    with zipfile.ZipFile(file) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        data = pickled.removesuffix(".pkl") + "/"
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        with archive.open(pickled) as stream:
            _Copy(stream, {name.removeprefix(data): size for name, size in sizes.items()}).load()
