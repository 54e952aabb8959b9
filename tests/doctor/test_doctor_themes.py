"""The doctor's themes, each with what makes it warn and fail."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from bridgetower_train import compose
from bridgetower_train.config import DataConfig, TrainConfig
from bridgetower_train.doctor import folders, machine, software
from bridgetower_train.findings import FAIL, OK, WARNING, Finding, as_text, counts

CONFIG = TrainConfig(run_dir="run", steps="10", tokenizer="t", data=DataConfig(root="data", corpora={"a": 1.0}))


def test_the_report_counts_its_lines():
    themes = {
        "one": [Finding("x", OK, "1"), Finding("y", FAIL, "2", "fix it")],
        "two": [Finding("z", WARNING, "3", "look")],
    }
    assert counts(themes) == {"ok": 1, "warning": 1, "fail": 1}
    lines = as_text(themes).splitlines()
    assert lines[1].split() == ["1", "ok", "x:", "1"]
    assert lines[5].split() == ["3", "warning", "z:", "3"]
    assert lines[-2:] == ["1 ok, 1 warning, 1 failure", "to do first: fix it"]


def test_packages():
    fitting, missing, old = software.check_packages(
        ["packaging>=20", "no-such-package>=1", "pytest<1", "other; extra == 'test'", "never; python_version < '3'"]
    )
    assert (fitting.level, fitting.found.split()[0]) == (OK, "packaging")
    assert (missing.level, missing.subject) == (FAIL, "no-such-package")
    assert (old.level, old.todo) == (FAIL, "needs <1: pip install 'pytest<1'")


def test_shared_memory_of_a_published_run():
    config = compose.compose(TrainConfig, "train", ["experiment=gaudi_large_14m"])
    assert machine.shared_bytes(config, ranks=8) == 8 * 2 * 5 * config.samples_per_lane * 3 * 294**2


def test_too_little_shared_memory_fails(tmp_path, monkeypatch):
    assert machine.check_shared_memory(CONFIG, tmp_path / "none").level == FAIL
    assert machine.check_shared_memory(CONFIG, tmp_path).level == OK
    hungry = replace(CONFIG, global_batch=1 << 24, data=replace(CONFIG.data, workers=64))
    assert machine.check_shared_memory(hungry, tmp_path).level == FAIL


def test_too_few_open_files_fail():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        assert machine.check_open_files(CONFIG).level == FAIL
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("free", "level"), [(3_900_000_000, WARNING), (4_100_000_000, OK)])
def test_little_memory_is_a_warning(free, level, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: free)
    assert machine.check_memory().level == level


def test_a_folder_that_can_be_created(tmp_path):
    finding = folders.check_folder("run_dir", tmp_path / "a" / "b")
    assert finding.level == OK
    assert f"to be created in {tmp_path})" in finding.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc/self/run", "/sys/run"])
def test_a_folder_without_write_access(folder):
    assert folders.check_folder("run_dir", Path(folder)).level == FAIL


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "run").write_text("")
    finding = folders.check_folder("run_dir", tmp_path / "run" / "a")
    assert (finding.level, f"{tmp_path}/run cannot be written to" in finding.found) == (FAIL, True)
