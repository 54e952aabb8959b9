"""What is installed, for the records of a run."""

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


def versions() -> dict[str, str]:
    """Python's and the packages' versions; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
