"""Machines with cards or the vendor's package, where these do not work: what is reported, and what still does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices import checks, habana, make_device
from bridgetower_train.errors import ConfigError

ROOT = Path(__file__).parents[2]

ASK = """
from bridgetower_train.config import DeviceConfig
from bridgetower_train.devices import make_device
from bridgetower_train.errors import ConfigError
for name in ("auto", "hpu", "cpu"):
    try:
        print(name, make_device(DeviceConfig(name=name))[0].name)
    except ConfigError as error:
        print(error)
"""


def ask(tmp_path, file, source):
    """What is said of `auto`, `hpu` and `cpu` where a module of the vendor's package is `source`."""
    path = tmp_path / "habana_frameworks" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libSynapse.so: cannot open')", "OSError: libSynapse.so: cannot open"),
        ("assert 0, 'torch 2.6 is required'", "AssertionError: torch 2.6 is required"),
    ],
    ids=["no library", "other torch"],
)
def test_a_broken_package_is_not_passed_over(tmp_path, source, reason):
    auto, hpu, cpu = ask(tmp_path, "torch/__init__.py", source)
    for name, said in (("auto", auto), ("hpu", hpu)):
        assert said.startswith(
            f"device.name={name}: this host has hpu, but habana_frameworks.torch cannot be imported for "
        )
        assert reason in said
        assert "device=cpu" in said
    assert cpu == "cpu cpu"


def test_the_media_loader_alone_is_no_sign_of_a_card(tmp_path):
    auto, hpu, _ = ask(tmp_path, "mediapipe/__init__.py", "raise RuntimeError('never imported')")
    assert auto in ("auto cpu", "auto cuda")
    assert hpu.startswith("device.name=hpu: not available here (habana_frameworks.torch is not installed")


@pytest.mark.parametrize(("maker", "counts"), [(None, True), ("0x1da3", True), ("0x8086", False)])
def test_a_card_without_the_package_is_not_passed_over(tmp_path, monkeypatch, maker, counts):
    """A node of another vendor's, such as a laptop's, does not count."""
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(habana, "NODES", str(tmp_path / "accel[0-9]*"))
    monkeypatch.setattr(habana, "DRIVER", str(tmp_path / "driver"))
    if maker:
        (tmp_path / "driver" / "accel0" / "device").mkdir(parents=True)
        (tmp_path / "driver" / "accel0" / "device" / "vendor").write_text(f"{maker}\n")
    assert (checks.detect()[0] == "hpu") == counts
    assert make_device(DeviceConfig(name="cpu"))[0].name == "cpu"
    if counts:
        with pytest.raises(
            ConfigError, match=r"auto: this host has hpu, but .* is not installed although .*accel0 exists"
        ):
            make_device(DeviceConfig())
    else:
        assert make_device(DeviceConfig())[0].name != "hpu"


@pytest.mark.parametrize(
    ("version", "fork"),
    [("2.6.0a0+git30ac7d1", True), ("2.9.0+hpu_1.23.0.695", True), ("2.10.0+cpu", False), ("2.10.0", False)],
)
def test_the_fork_is_told_by_its_version(version, fork):
    assert habana.is_fork(version) == fork


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
