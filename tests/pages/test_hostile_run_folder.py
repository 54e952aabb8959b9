"""The report of a run folder that others wrote: what cannot be read is left out and named, at once."""

import json
import os
from pathlib import Path

import pytest
from synthetic_run import write_run

from bridgetower_train.cli import main
from bridgetower_train.pages.run_folder import RunFolder, read_run
from tests.hostile.attacks import attack
from tests.test_config import ALIASES


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run folder to write to."""
    return write_run(tmp_path / "run", steps=1000)


def reported(folder: Path) -> RunFolder:
    """The run as it is read, once its report has been written."""
    assert main(["report", f"run_dir={folder}"]) == 0
    return read_run(folder)


FIFOS = ("config.yaml", "metrics.jsonl", "bad_samples.jsonl", "eval.json", "checkpoints/step-00001000/state.json")


@attack(50)
@pytest.mark.parametrize("name", FIFOS)
def test_what_is_no_file_is_not_opened(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    run = reported(folder)
    assert any(f"{name}: is not a regular file" in remark for remark in run.remarks), run.remarks


@attack(50)
def test_no_image_is_opened_by_its_name(folder):
    os.mkfifo(folder / "image.png")
    content = json.loads((folder / "eval.json").read_text())
    content["examples"] = [
        {"query_kind": "image", "image": str(folder / "image.png"), "results": [{"image": "image.png"}]}
    ]
    (folder / "eval.json").write_text(json.dumps(content))
    reported(folder)
    assert "image missing" in (folder / "report.html").read_text()


BAD_LINES = [
    b'{"step": ' + b"9" * 5000 + b', "loss": 1}',
    b'{"step": 1000, "loss": ' + b"9" * 400 + b"}",
    b'{"step": ' + b"9" * 400 + b', "loss": 1}',
    b'{"step": -1, "loss": 1}',
    b'{"step": "1", "loss": 1}',
    b'{"loss": 1}',
    b"[" * 100_000,
    b"\xff\xfe",
    b"[1]",
    b'"' + b"x" * 3_000_000 + b'"',  # three parts
]


@attack(51)
def test_lines_that_cannot_be_read_are_left_out_and_counted(folder):
    before = read_run(folder).metrics["loss"]
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\n".join([*BAD_LINES, b'{"step": 2000, "loss": NaN, "x": 1e999, "y": [1]}', b'{"step": 30']))
    with (folder / "bad_samples.jsonl").open("ab") as file:
        file.write(b"[\n" + BAD_LINES[1] + b"\n{}")
    run = reported(folder)
    assert run.metrics["loss"][0].tolist() == [*before[0], 2000]
    assert len(run.bad_samples) == 13
    assert run.remarks == [
        "metrics.jsonl: 13 lines could not be read and left out.",
        "bad_samples.jsonl: 2 lines could not be read and left out.",
    ]


def test_a_file_of_lines_has_a_limit(folder, monkeypatch):
    monkeypatch.setattr("bridgetower_train.foreign.MAX_LINES", 5000)
    assert any("metrics.jsonl: has more than 5,000 bytes" in remark for remark in reported(folder).remarks)


@attack(46)
@attack(47)
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (ALIASES, "line 2: has an alias"),
        ("model: [1", "line 1"),
        ("- 1", "keys and values"),
        ("seed: 0x" + "f" * 9999, "integer"),
        ("x: " + "[" * 9999, "nested"),
        ("a: " + "x" * 200_000, "has more than 131,072 bytes"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_configuration_that_cannot_be_read_is_named(folder, content, part):
    (folder / "config.yaml").write_text(content)
    run = reported(folder)
    assert run.config == {}
    assert len(run.remarks) == 1
    assert part in run.remarks[0]
    assert "\n" not in run.remarks[0]


@attack(47)
@pytest.mark.parametrize("command", [["eval"], ["export", "out={there}"], ["predict", "image=x", "texts=[a]"]])
@pytest.mark.parametrize("content", ["unknown: 3", "model: [1", ALIASES], ids=["unknown key", "broken YAML", "aliases"])
def test_commands_that_need_the_configuration_name_it(folder, tmp_path, capsys, command, content):
    (folder / "config.yaml").write_text(content)
    assert main([part.format(there=tmp_path / "there") for part in command] + [f"run_dir={folder}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder}/config.yaml: ")
    assert error.count("\n") == 1


@attack(52)
@pytest.mark.parametrize("content", [b"[]", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b""])
@pytest.mark.parametrize("name", ["eval.json", "checkpoints/step-00001000/state.json"])
def test_json_of_another_shape_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    assert [remark.split(":")[0] for remark in reported(folder).remarks] == [name.removeprefix("checkpoints/")]


@attack(52)
@pytest.mark.parametrize("value", [{"a": {"b": [1]}}, [1], None, "x", 10**400, True])
def test_figures_of_any_kind_are_reported(folder, value):
    content = json.loads((folder / "eval.json").read_text())
    content["figures"]["probe word accuracy"] = value
    content["evaluations"] = {
        "x on y": {"evaluation": "x", "step": value, "protocol": {"a": value}, "figures": {"b": value}}
    }
    (folder / "eval.json").write_text(json.dumps(content))
    assert reported(folder).remarks == []


def test_a_manifest_names_files_of_its_checkpoint_only(folder):
    path = folder / "checkpoints" / "step-00001000" / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["../../../../../../etc/passwd"] = {"bytes": 1, "sha256": ""}
    path.write_text(json.dumps(content))
    assert reported(folder).checkpoints[-1].fault == "manifest.json is missing or damaged"
