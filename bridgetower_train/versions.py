"""What is installed, for the records of a run and for the doctor."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "bridgetower-train",
    "torch",
    "numpy",
    "webdataset",
    "simplejpeg",
    "tokenizers",
    "safetensors",
    "hydra-core",
)
"""Packages on which the result of a run may depend."""


def installed_version(package: str) -> str | None:
    """Version of a distribution; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python's and the packages' versions; a package that is not installed is left out."""
    found = {package: installed_version(package) for package in PACKAGES}
    return {"python": platform.python_version()} | {name: given for name, given in found.items() if given}


def commit() -> str | None:
    """The git commit of the checkout that runs, with `-dirty` where its files have changed; None if there is none."""
    folder = str(Path(__file__).parents[1])
    describe = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
