"""What is installed, for the records of a run and for the doctor."""

import platform
from importlib.metadata import PackageNotFoundError, version

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
