"""The vendor's package: found without importing it, configured, and only then imported.

Its C++ side reads the environment once, at the first import: execution mode and autocast lists must be set before.
"""

import glob
import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from bridgetower_train.errors import ConfigError

PACKAGE = "habana_frameworks.torch"

PLUGIN = "habana-torch-plugin"
"""The distribution that it is in; its version is that of the Gaudi software."""

BF16_OPS = Path(__file__).parent / "hpu_bf16_ops.txt"
"""Operators that autocast runs in bf16: the vendor's list without `mul` and `mean`, which would round pixels and losses to eight
bits, `softmax` and `log_softmax`."""

FP32_OPS = Path(__file__).parent / "hpu_fp32_ops.txt"
"""Operators that it runs in float32: the vendor's list with those two, and without divisions, which would make the hidden layer
of every image block float32. Operators on neither list keep the precision of their inputs, but for those that the package always
runs in the widest type among them: add, iadd, sub, mul, div, truediv, pow, exp, addcmul, addcdiv, cat and stack."""

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"

NODES, DRIVER = "/dev/accel/accel[0-9]*", "/sys/class/accel"
"""Where Linux has the nodes of accelerators, and what it knows about each."""

VENDOR = "0x1da3"
"""The vendor's PCI identifier."""

ZERO = ("PT_HPU_LAZY_ACC_PAR_MODE", "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES")
"""Variables that ZeRO needs at 0 in lazy mode (accelerator/hpu_accelerator.py of the vendor's DeepSpeed 1.21.0)."""


def installed() -> bool:
    """Whether the package is installed; habana-media-loader alone installs `habana_frameworks` without it."""
    return find_spec("habana_frameworks") is not None and find_spec(PACKAGE) is not None


def node() -> str | None:
    """A device node of a card; None without one. Nodes that the kernel knows to be another vendor's do not count."""
    for path in sorted(glob.glob(NODES)):
        maker = Path(DRIVER) / Path(path).name / "device" / "vendor"
        if not maker.is_file() or maker.read_text().strip() == VENDOR:
            return path
    return None


def is_fork(version: str = torch.__version__) -> bool:
    """Whether a version of torch is that of the vendor's fork, by the vendor's own rule; the others have no lazy mode."""
    return (Version(version).local or "").startswith(("git", "hpu"))


def module(name: str) -> Any:
    """A module of the package, such as `core`."""
    return importlib.import_module(f"{PACKAGE}.{name}")


def load(lazy: bool) -> None:
    """Import the package in the given mode, with an exact GELU unless the environment asks for its approximation.

    ConfigError if the environment or an earlier import conflicts with it. Other errors of the import are passed on.
    """
    wanted = {
        "PT_HPU_LAZY_MODE": str(int(lazy)),
        "PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST": str(BF16_OPS),
        "PT_HPU_AUTOCAST_FP32_OPS_LIST": str(FP32_OPS),
        AUTOLOAD: "0",  # otherwise loader workers would import the package with torch
    }
    mode = f"device.execution={'lazy' if lazy else 'eager or compile'}"
    imported = PACKAGE in sys.modules
    for name, value in wanted.items():
        given = os.environ.get(name)
        if given is not None and given != value and name != AUTOLOAD:
            raise ConfigError(
                f"{name}={given} is set in the environment, but {mode} needs {value}: unset {name}"
                + (", or change device.execution" if name == "PT_HPU_LAZY_MODE" else "")
            )
        if given is None and imported and name != AUTOLOAD:
            raise ConfigError(
                f"{PACKAGE} was imported before {name} could be set: export {AUTOLOAD}=0, or import it after bridgetower_train"
            )
    os.environ.update(wanted)
    os.environ.setdefault("PT_HPU_FORCE_TANH_FOR_GELU", "0")
    for name in (PACKAGE, f"{PACKAGE}.core", f"{PACKAGE}.distributed.hccl"):
        importlib.import_module(name)
    if module("utils.internal").is_lazy() != lazy:
        raise ConfigError(f"{PACKAGE} was already imported in the other mode: start a new process for {mode}")
