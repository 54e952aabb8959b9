"""Running a benchmark as a user does, and reading what it writes."""

import json
from dataclasses import asdict
from importlib import import_module

import pytest
from tiny import TINY_MODEL

from bridgetower_train.cli import main


@pytest.fixture
def tiny():
    """The smallest model on the CPU, as overrides."""
    model = {key: value for key, value in asdict(TINY_MODEL).items() if value is not None}
    return ["device=cpu", *(f"model.{key}={value}" for key, value in model.items())]


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
