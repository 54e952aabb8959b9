"""What cannot be imported is named: another package called data_prep in place of ours, or what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.runs import train_here

ROOT = Path(__file__).parents[1]


def bridgetower(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as it runs in `folder`, which Python searches first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bridgetower_train", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize("name", ["data_prep/__init__.py", "data_prep.py"])
def test_a_foreign_package_is_named(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise SystemExit('foreign code has run')")
    done = bridgetower(tmp_path, "prep", "card", "root=x")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {foreign}: is another package named data_prep")
    foreign.write_text("")
    done = bridgetower(tmp_path, "bench", "data", "--help")  # its module, not itself of data_prep, imports it
    assert (done.returncode, done.stderr.count(f"{foreign}: is another package")) == (1, 1)
    assert bridgetower(tmp_path, "train", "--help").returncode == 0


def test_a_folder_of_data_that_is_no_package_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "data_prep").mkdir()
    assert bridgetower(tmp_path, "prep", "card", "--help").returncode == 0


@pytest.mark.parametrize(("package", "key"), [("tensorboard", "tensorboard=true"), ("wandb", "wandb.project=x")])
def test_a_package_that_is_missing_is_named(shapes_root, tmp_path, monkeypatch, capsys, package, key) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    train_here(shapes_root, tmp_path, key, "steps=2", code=1)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert line.endswith(f": {package} is missing or damaged; `bridgetower doctor` says what to install")
