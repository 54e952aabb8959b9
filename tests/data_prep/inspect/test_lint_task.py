"""Lint knows the samples of tasks: their ids, labels and answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.inspect.card import CardConfig
from data_prep.inspect.card import run as card
from data_prep.inspect.lint import LintConfig, run
from data_prep.inspect.stats import StatsConfig
from data_prep.inspect.stats import run as stats
from data_prep.shards.index import build_index
from data_prep.shards.writer import write_corpus

SOUND: dict[str, dict[str, Any]] = {
    "vqav2": {"answers": [["a"] * 10, ["b", "a"]], "answer_types": ["other", "other"]},
    "snli_ve": {"labels": [0, 2], "premises": ["x", ""]},
    "nlvr2": {"labels": [0, 1]},
    "classes": {"labels": [[0], [2]]},
}
NAMES = ["a", "b", "c"]


def write(root: Path, task: str, jpeg: bytes, changes: dict[str, Any], names: Any = NAMES, **extra: Any) -> None:
    """A corpus of three records, of which the second is changed."""
    made = []
    for number in range(3):
        meta = {"ids": [f"{number}-0", f"{number}-1"], **SOUND[task], **(changes if number == 1 else {})}
        meta = {key: value for key, value in meta.items() if value is not None}
        further = [jpeg] if task == "nlvr2" else []
        made.append((f"{number}", jpeg, ["same", "same"], meta, (), further))
    write_corpus(root / "corpus", 64, made, records_per_shard=2)
    manifest = root / "corpus" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["extra"] = {"task": task, "split": "train", **extra}
    manifest.write_text(json.dumps(content))
    if names is not None:
        (root / "corpus" / ("answers.json" if task == "vqav2" else "classes.json")).write_text(json.dumps(names))


def faults(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    code = run(LintConfig(root=str(root), workers=1, duplicates="ignore", listing=str(root / "lint.jsonl")))
    out = capsys.readouterr().out
    assert code == ("lint: all is well" not in out)
    return "" if code == 0 else out


@pytest.mark.parametrize("task", SOUND)
def test_sound_corpora_pass_and_are_indexed_counted_and_described(
    tmp_path: Path, jpeg: bytes, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, task, jpeg, {})
    assert faults(tmp_path, capsys) == ""
    index = (tmp_path / "corpus" / "index.npy").read_bytes()
    assert build_index(tmp_path / "corpus").extra["task"] == task
    assert (tmp_path / "corpus" / "index.npy").read_bytes() == index
    stats(StatsConfig(root=str(tmp_path), out=str(tmp_path / "stats.html")))
    assert f"task {task}" in capsys.readouterr().out
    card(CardConfig(root=str(tmp_path)))
    assert f"experiment=finetune_{task} " in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("task", "changes", "fault"),
    [
        ("vqav2", {"ids": [["1-0"], "1-1"]}, "has no id for each text"),
        ("vqav2", {"ids": ["1-0", "1-0"]}, "id that an earlier text has"),
        ("vqav2", {"ids": ["1-0", "0-1"]}, "id that an earlier text has"),
        ("vqav2", {"answers": None}, "has no answers"),
        ("vqav2", {"answers": [["a"]]}, "has no answers for each question"),
        ("vqav2", {"answers": [["a"], []]}, "has a question without an answer"),
        ("vqav2", {"answers": [["a"], [1]]}, "has a question without an answer"),
        ("vqav2", {"answer_types": ["other"]}, "has no type of answer for each question"),
        ("snli_ve", {"premises": None}, "has no premise for each hypothesis"),
        ("snli_ve", {"labels": [0, 3]}, "has a label that is no number of a class"),
        ("snli_ve", {"labels": [0, -1]}, "has a label that is no number of a class"),
        ("nlvr2", {"labels": [0, True]}, "has a label that is no number of a class"),
        ("nlvr2", {"labels": None}, "has no label for each text"),
        ("nlvr2", {"labels": [0]}, "has no label for each text"),
        ("classes", {"labels": [0, 1]}, "has no label for each text"),
        ("classes", {"labels": [[0], []]}, "has a label that is no number of a class"),
        ("classes", {"labels": [[0], [0, 1]]}, "has several labels for a text"),
    ],
)
def test_faults_are_named(
    tmp_path: Path,
    jpeg: bytes,
    task: str,
    changes: dict[str, Any],
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path, task, jpeg, changes)
    assert f"{fault}: 1 (corpus/00000" in faults(tmp_path, capsys)


@pytest.mark.parametrize("names", [None, [], ["a", "a"], {"a": 1}])
def test_the_file_of_names_is_checked(
    tmp_path: Path, jpeg: bytes, names: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "classes", jpeg, {}, names)
    assert "classes.json: " in faults(tmp_path, capsys)


def test_a_test_split_needs_no_answers_and_several_labels_are_allowed_where_noted(
    tmp_path: Path, jpeg: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a", "vqav2", jpeg, {"answers": None}, None, split="test")
    assert faults(tmp_path / "a", capsys) == ""
    write(tmp_path / "b", "classes", jpeg, {"labels": [[0, 1], [2]]}, several=True)
    assert faults(tmp_path / "b", capsys) == ""
