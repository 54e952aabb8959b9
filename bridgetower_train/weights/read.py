"""Reads tensors from files without executing any code in them.

Pickles are always read with `weights_only=True`.
"""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.foreign import open_regular, read_json
from bridgetower_train.tasks.base import HEAD_FILE
from bridgetower_train.weights import pickles

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The files that a folder of weights may have, in order of preference; an index lists the parts of a split model."""

_MAX_INFLATION = 10  # torch compresses code only; weights that were zipped again shrink by a tenth


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


def read_tensors(path: Path, named: str) -> dict[str, Tensor]:
    """Name -> host tensor of a file, or of the weights in a folder.

    In a folder the head of a task may have a file of its own. A file is safetensors, the output of `torch.save` (a state dict, or
    one under the key `state_dict`), or a TorchScript archive. ConfigError beginning with `named`, the key and its value, if it
    cannot be read.
    """
    if not path.is_dir():
        return _read_file(path, named)
    found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise ConfigError(f"{named}: {path} has no weights; it must contain one of {', '.join(WEIGHT_FILES)}")
    parts = [found.name] if found.suffix != ".json" else parts_of(found, named)
    if (path / HEAD_FILE).is_file():
        parts.append(HEAD_FILE)
    tensors: dict[str, Tensor] = {}
    for part in parts:
        tensors |= _read_file(path / part, named)
    return tensors


def parts_of(index: Path, named: str) -> list[str]:
    """The names of the files that an index lists, all beside it; ConfigError if it is damaged."""
    try:
        names = sorted(set(read_json(index, _Index).weight_map.values()))
        if not names or any(Path(name).name != name for name in names):
            raise FileError(f"{index}: must list files in its own folder")
    except (OSError, FileError) as error:
        raise ConfigError(f"{named}: is not an index of weights: {error}") from None
    return names


def _read_file(path: Path, named: str) -> dict[str, Tensor]:
    content: Any
    try:
        open_regular(path).close()
        if path.suffix == ".safetensors":
            return load_file(path)
        names = _zipped(path)
        if any(name.endswith("/constants.pkl") for name in names):
            content = _read_torchscript(path)
        else:
            with open_regular(path) as file:
                content = _load(file)
    except (SafetensorError, OSError, FileError) as error:
        raise ConfigError(f"{named}: {path} cannot be read: {error}") from None
    except Exception as error:  # torch raises all kinds of errors for damaged or hostile pickles
        raise ConfigError(f"{named}: {path} cannot be read: {_reason(error)}") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not _is_state(content):
        inner = (
            [str(key) for key, value in content.items() if isinstance(value, dict) and value and _is_state(value)]
            if isinstance(content, dict)
            else []
        )
        hint = f"; that under its key {inner[0]!r:.40} is: save it alone" if inner else ""
        raise ConfigError(f"{named}: {path} is not a state dict (names and tensors){hint}")
    return content


def _is_state(content: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether it is a dict of names and tensors."""
    return isinstance(content, dict) and all(isinstance(name, str) and _is_plain(t) for name, t in content.items())


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor whose elements all lie in its file; a stride of 0 makes terabytes of one."""
    return (
        isinstance(value, Tensor)
        and (value.layout, value.device.type, value.is_quantized) == (torch.strided, "cpu", False)
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _zipped(path: Path) -> list[str]:
    """The names in an archive; none if it is no archive. FileError if it would take far more memory than its file."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_INFLATION * path.stat().st_size + (1 << 20):
            raise FileError(f"it would take {size:,} bytes, far more than its file has")
        return archive.namelist()


def _load(file: IO[bytes]) -> Any:
    if not pickles.CHECKED_BY_TORCH:
        pickles.check_pickle(file)
        file.seek(0)
    with torch.serialization.safe_globals(_lightning(file)):
        return torch.load(file, map_location="cpu", weights_only=True)


def _lightning(file: IO[bytes]) -> list[Any]:
    """Inert classes in place of those of PyTorch Lightning that a checkpoint names beside its weights, for its callbacks."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return []
    file.seek(0)
    named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    file.seek(0)
    return [_stub(*name.rsplit(".", 1)) for name in named if re.match(r"(pytorch_)?lightning\.", name)]


def _stub(module: str, name: str) -> type:
    return type(name, (_Inert,), {"__module__": module})


def _reason(error: Exception) -> str:
    """The reason of an error, without torch's advice to trust the file."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it refers to the Python object {refused[1]}, and only tensors are read; save only its state dict"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'damaged'}"


# --- TorchScript, the format of OpenAI's CLIP files


class _Inert:
    """Stands for a module of the archive: has its attributes, but no code."""

    def __init__(self, *args: Any) -> None:
        pass


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive under the names of its state dict.

    `torch.jit.load` would compile the code in it, and may run it. Here only the archive's data are copied, and read with
    `weights_only=True` and an inert class for each module.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(data, "w") as copy:
        for name in archive.namelist():
            if re.fullmatch(r"[^/]+/(data\.pkl|data/\d+|version|byteorder)", name):
                copy.writestr(name, archive.read(name))
        pickled = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
        classes = {str(a) for code, a, _ in pickletools.genops(archive.read(pickled)) if code.name == "GLOBAL"}
    named = (qualified.rsplit(" ", 1) for qualified in sorted(classes))
    stubs: list[Any] = [
        _stub(module, name) for module, name in named if re.match(r"__torch__(\.|$)|torch\.jit\._pickle$", module)
    ]
    data.seek(0)
    with torch.serialization.safe_globals(stubs):
        return dict(_walk(_load(data), "", {}))


def _walk(module: object, prefix: str, done: dict[int, bool]) -> Iterator[tuple[str, Tensor]]:
    """The tensors below a module. One that several share is read once: its names could double with each level."""
    done[id(module)] = False
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value.data if isinstance(value, nn.Parameter) else value
        elif isinstance(value, _Inert):
            if not done.get(id(value), True):
                raise FileError("a module in it contains itself")
            if id(value) not in done:
                yield from _walk(value, f"{prefix}{name}.", done)
    done[id(module)] = True
