"""Machines without a working vendor package: what is reported, and that it is not needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ASK = """
from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices import make_device
from bridgetower_train.errors import ConfigError
device, why = make_device(DeviceConfig())
print(device.name, why)
try:
    make_device(DeviceConfig(name="hpu"))
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("torch/__init__.py", "raise OSError('libSynapse.so: cannot open')", "cannot be imported: OSError: libSynapse"),
        ("torch/__init__.py", "assert 0, 'torch 2.6 is required'", "cannot be imported: AssertionError: torch 2.6"),
        ("mediapipe/__init__.py", "raise RuntimeError('never imported')", "is not installed"),
    ],
    ids=["no library", "other torch", "media loader alone"],
)
def test_auto_takes_another_device_and_says_why(tmp_path, file, source, reason):
    path = tmp_path / "habana_frameworks" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True)
    chosen, refused = done.stdout.splitlines()
    assert chosen.startswith(("cpu ", "cuda "))
    assert f"no hpu: habana_frameworks.torch {reason}" in chosen
    assert refused.startswith(f"device.name=hpu: not available here (habana_frameworks.torch {reason}")


SEEN = """
import os
print(*(os.environ.get(name) for name in ("PT_HPU_LAZY_ACC_PAR_MODE", "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES")))
raise ImportError
"""


@pytest.mark.parametrize(
    ("engine", "given", "seen"),
    [
        ("native", {}, "None None"),
        ("zero1", {}, "0 0"),
        ("zero3", {"PT_HPU_LAZY_ACC_PAR_MODE": "1"}, "1 0"),
    ],
)
def test_zero_finds_its_variables_set_before_the_package_reads_them(tmp_path, engine, given, seen):
    package = tmp_path / "habana_frameworks" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(SEEN)
    overrides = [f"engine={engine}", "device=hpu", f"run_dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "bridgetower_train", "train", *overrides]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", **given}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == seen, done.stderr
