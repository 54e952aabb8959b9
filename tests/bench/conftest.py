"""Running a benchmark as a user does, and reading what it writes."""

import json
from importlib import import_module

import pytest

from bridgetower_train.cli import main

_TINY = (
    "device=cpu", "model.image_size=32", "model.patch_size=16", "model.width=64", "model.vision_layers=1",
    "model.text_layers=1", "model.fusion_layers=1", "model.text_positions=64",
)  # fmt: skip


@pytest.fixture
def tiny():
    """The smallest model, as overrides."""
    return _TINY


@pytest.fixture
def bench(tmp_path, capsys):
    """`bench(name, *overrides, code=0, without=())`: the figures of `bridgetower bench`: all documented ones but `without`."""

    def run(name, *overrides, code=0, without=()):
        out = tmp_path / "figures.json"
        capsys.readouterr()
        assert main(["bench", name, *overrides, f"out={out}"]) == code
        printed = capsys.readouterr().out
        record = json.loads(out.read_text())
        out.unlink()
        assert set(record) == {"bench", "date", "machine", "versions", "config", "figures"}
        assert record["bench"] == name
        assert record["config"]["out"] == str(out)
        tables = [value for value in record["figures"].values() if isinstance(value, dict)]
        names = {*record["figures"], *(column for table in tables for row in table.values() for column in row)}
        documented = set(import_module(f"bridgetower_train.bench.{name}").FIGURES)
        assert documented - names == set(without)
        assert all(any(word == figure for word in printed.replace(":", " ").split()) for figure in names)
        return record["figures"]

    return run
