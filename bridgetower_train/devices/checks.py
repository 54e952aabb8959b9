"""The doctor's look at the accelerator: which platform this machine has, and what that platform must have right."""

import glob
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

from bridgetower_train.config import TrainConfig, one_of
from bridgetower_train.devices.cpu_checks import check_cpu
from bridgetower_train.devices.cuda_checks import check_cuda
from bridgetower_train.devices.hpu_checks import check_hpu
from bridgetower_train.doctor.findings import Finding, ok

Run = Callable[[Sequence[str]], str | None]
"""Runs a command; its standard output, or None where it is not there, fails or hangs."""

PLATFORMS: dict[str, Callable[[TrainConfig, Mapping[str, str], Run], list[Finding]]] = {
    "hpu": check_hpu,
    "cuda": check_cuda,
    "cpu": check_cpu,
}


def check_device(config: TrainConfig) -> list[Finding]:
    """The checks of the configured platform, or of the one that this machine shows signs of.

    Signs, and not what torch can use: a card that torch does not see is what the doctor is for.
    """
    one_of("device.name", config.device.name, ("auto", *PLATFORMS))
    name, why = (config.device.name, "as configured") if config.device.name != "auto" else detect()
    return [ok("platform", f"{name}: {why}"), *PLATFORMS[name](config, os.environ, run)]


def detect() -> tuple[str, str]:
    """(platform, the sign by which it was recognised)."""
    signs = {
        "hpu": ("hl-smi", "/dev/accel/accel[0-9]*", "habana_frameworks.torch"),
        "cuda": ("nvidia-smi", "/dev/nvidia[0-9]*", None),
    }
    for name, (tool, nodes, module) in signs.items():
        if path := shutil.which(tool):
            return name, f"{path} is there"
        if found := glob.glob(nodes):
            return name, f"{found[0]} is there"
        if module and installed(module):
            return name, f"{module} is installed"
    return "cpu", "no sign of an accelerator"


def installed(module: str) -> bool:
    """Whether `module` could be imported, by its spec alone; a parent package without it does not count."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def run(command: Sequence[str], timeout: float = 120.0) -> str | None:
    """See Run."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
