"""The doctor's checks of the accelerator: which platform this machine has, and whether it is set up for a run."""

import glob
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

from bridgetower_train.config import TrainConfig, one_of
from bridgetower_train.devices import habana
from bridgetower_train.devices.cpu_checks import check_cpu
from bridgetower_train.devices.cuda_checks import check_cuda
from bridgetower_train.devices.hpu_checks import check_hpu
from bridgetower_train.devices.network_checks import check_addresses
from bridgetower_train.findings import Finding, ok

Run = Callable[[Sequence[str]], str | None]
"""Runs a command; its standard output, or None if it is missing, fails or hangs."""

Check = Callable[[TrainConfig, Mapping[str, str], Run], list[Finding]]
PLATFORMS: dict[str, Check] = {"hpu": check_hpu, "cuda": check_cuda, "cpu": check_cpu}


def check_device(config: TrainConfig) -> list[Finding]:
    """The checks of the configured platform; with `auto`, of the one that this machine shows signs of.

    Signs, not what torch can use: the doctor is there to find a card that torch does not see.
    """
    one_of("device.name", config.device.name, ("auto", *PLATFORMS))
    name, why = (config.device.name, "as configured") if config.device.name != "auto" else detect()
    return [ok("platform", f"{name}: {why}"), *PLATFORMS[name](config, os.environ, run), *check_addresses(run)]


def detect() -> tuple[str, str]:
    """(platform, the sign of it that was found)."""
    signs = {
        "hpu": (shutil.which("hl-smi"), habana.node()),
        "cuda": (shutil.which("nvidia-smi"), *glob.glob("/dev/nvidia[0-9]*")),
    }
    for name, paths in signs.items():
        for path in paths:
            if path:
                return name, f"{path} exists"
    if habana.installed():
        return "hpu", f"{habana.PACKAGE} is installed"
    return "cpu", "no sign of an accelerator"


def run(command: Sequence[str], timeout: float = 120.0) -> str | None:
    """See Run."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
