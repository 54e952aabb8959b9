"""Python and packages: what is installed against what this package requires."""

import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bridgetower_train.config import TrainConfig
from bridgetower_train.findings import Finding, fail, ok, warning
from bridgetower_train.versions import installed_version

PACKAGE = "bridgetower-train"


def check_software(config: TrainConfig) -> list[Finding]:
    """Python, this package and its dependencies."""
    try:
        declared = metadata(PACKAGE)
    except PackageNotFoundError:
        return [
            ok("python", f"{platform.python_version()} at {sys.executable}"),
            warning(PACKAGE, "runs from a folder, is not installed", "pip install -e . to have versions compared"),
        ]
    wanted = SpecifierSet(declared["Requires-Python"] or "")
    found = f"{platform.python_version()} at {sys.executable}"
    python = ok("python", found)
    if platform.python_version() not in wanted:
        python = fail("python", found, f"use a Python {wanted}")
    return [python, ok(PACKAGE, declared["Version"]), *check_packages(declared.get_all("Requires-Dist") or [])]


def check_packages(requirements: Iterable[str]) -> list[Finding]:
    """One finding for all packages that fit, and one for each that does not; extras are ignored."""
    fitting, findings = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = installed_version(requirement.name)
        if installed is None:
            findings.append(fail(requirement.name, "is not installed", f"pip install '{requirement}'"))
        elif requirement.specifier.contains(installed, prereleases=True):
            fitting.append(f"{requirement.name} {installed}")
        else:
            findings.append(
                fail(requirement.name, installed, f"needs {requirement.specifier}: pip install '{requirement}'")
            )
    return [ok("packages", ", ".join(fitting)), *findings] if fitting else findings
