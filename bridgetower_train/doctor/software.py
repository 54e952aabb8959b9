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
    found = f"{platform.python_version()} at {sys.executable}"
    python = ok("python", found)
    try:
        declared = metadata(PACKAGE)
    except PackageNotFoundError:
        todo = "pip install -e . to have versions compared"
        return [python, warning(PACKAGE, "runs from a folder, is not installed", todo)]
    wanted = SpecifierSet(declared["Requires-Python"] or "")
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
            todo = f"needs {requirement.specifier}: pip install '{requirement}'"
            findings.append(fail(requirement.name, installed, todo))
    return [ok("packages", ", ".join(fitting)), *findings] if fitting else findings
