"""`bridgetower doctor` as a whole: on this machine, and on one that pretends to have cards."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bridgetower_train.cli import main
from tests.data.toy import toy_text
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]


def run_of(root: Path) -> list[str]:
    """Overrides of a run that fits the corpus `small`."""
    return [
        f"data.root={root}", "data.corpora={small: 1.0}", "model.image_size=64", "model.vocab_size=null", "device.name=cpu",
    ]  # fmt: skip


@pytest.fixture
def report(capsys):
    """`report(*arguments)`: (exit code, the findings by subject)."""

    def call(*arguments: str):
        code = main(["doctor", "--json", *arguments])
        findings = json.loads(capsys.readouterr().out)["findings"]
        return code, {finding["subject"]: finding for finding in findings}

    return call


def test_numbered_lines_with_what_to_do(capsys, tmp_path):
    code = main(["doctor", "device.name=cpu", f"run_dir={tmp_path}/run", "data.root=/nowhere"])
    lines = capsys.readouterr().out.splitlines()
    numbered = [line.split(maxsplit=2) for line in lines if line[:4].strip().isdigit()]
    assert code == 1
    assert [int(number) for number, _, _ in numbered] == list(range(1, len(numbered) + 1))
    assert {level for _, level, _ in numbered} <= {"ok", "warning", "fail"}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line[:4].strip().isdigit():
            assert following.strip().startswith("->") == (line.split()[1] != "ok")
    assert lines[-2].endswith("failures")
    assert lines[-1].startswith("to do first: ")
    assert not (tmp_path / "run").exists(), "it only looks"


def test_before_any_data_it_says_what_to_do_first(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "checks=[data]"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("to do first: bridgetower prep shapes out=data ")


def test_as_a_process_on_this_machine(shapes_root, tmp_path):
    """A run that would start: no failure, exit code 0, JSON alone on standard output."""
    result = subprocess.run(
        [sys.executable, "-m", "bridgetower_train", "doctor", "--json", "experiment=demo", f"data.root={shapes_root}",
         "model.image_size=32", f"run_dir={tmp_path}", "device.name=cpu"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=400,
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert result.returncode == 0, [f for f in report["findings"] if f["level"] == "fail"]
    assert report["counts"]["fail"] == 0
    assert {f["theme"] for f in report["findings"]} == {"software", "device", "machine", "folders", "data", "start"}
    shapes = next(f for f in report["findings"] if f["subject"] == "shapes")
    assert shapes["found"].startswith("96 images")


def test_themes_can_be_chosen(report, capsys):
    _, found = report("checks=[machine]")
    assert "shared memory" in found
    assert "python" not in found
    assert main(["doctor", "checks=[machines]"]) == 2
    assert "did you mean 'machine'" in capsys.readouterr().err


def test_the_flag_belongs_to_this_command_alone(capsys):
    assert main(["train", "--json"]) == 2
    assert "--json: no such flag" in capsys.readouterr().err


def test_data_that_was_not_given_is_a_warning_and_one_that_is_wrong_a_failure(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report("checks=[data]")[1]["data.root"]["level"] == "warning"
    code, found = report("checks=[data]", f"data.root={tmp_path}/x")
    assert (code, found["shapes"]["level"], found["tokenizer"]["level"]) == (1, "fail", "fail")


def test_a_damaged_corpus_is_a_failure(report, make_corpus, tmp_path):
    root = make_corpus(tmp_path / "data")
    code, found = report("checks=[data]", *run_of(root))
    assert found["small"]["level"] == "ok"
    with open(root / "small" / "000001.tar", "ab") as shard:
        shard.write(b"x" * 512)
    code, found = report("checks=[data]", *run_of(root))
    assert (code, found["small"]["level"]) == (1, "fail")
    assert "000001.tar" in found["small"]["found"]


def test_images_of_another_size_are_a_warning(report, small_corpus):
    _, found = report("checks=[data]", *run_of(small_corpus), "model.image_size=32")
    assert found["small"]["level"] == "warning"
    assert "size=32" in found["small"]["todo"]


@pytest.mark.parametrize("key", ["data.square=squash", "data.augment=randaugment"])
def test_images_that_are_resized_anyway_may_be_larger(report, small_corpus, key):
    for size, level in ((32, "ok"), (80, "warning")):
        _, found = report("checks=[data]", *run_of(small_corpus), key, f"model.image_size={size}")
        assert found["small"]["level"] == level


HL_SMI = """#!/bin/sh
if [ "$1" = "-Q" ]; then
  for i in 0 1 2 3 4 5 6 7; do echo "$i, $i, {board}, 98304 MiB, 768 MiB"; done
else
  echo "| HL-SMI Version:          hl-{driver}-fw-58.1.1.1 |"
  echo "| Driver Version:          {driver}-bd87f71        |"
fi
"""


@pytest.fixture
def gaudi(tmp_path, monkeypatch):
    """`gaudi(board, driver)` puts an `hl-smi` on the PATH that lists eight cards."""

    def make(board: str = "HL-225", driver: str = "1.24.0") -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        tool = folder / "hl-smi"
        tool.write_text(HL_SMI.format(board=board, driver=driver))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return make


def test_cards_without_their_software_fail(gaudi, report, monkeypatch):
    """This torch is no fork of the vendor's, so `auto` is not lazy."""
    gaudi()
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", "0,9")
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "1")
    code, found = report("checks=[device]")
    assert code == 1
    assert "hl-smi exists" in found["platform"]["found"]
    assert found["cards"]["found"] == "8 x HL-225, 96 GiB each, driver 1.24.0"
    levels = {subject: finding["level"] for subject, finding in found.items()}
    assert levels["cards"] == "ok"
    assert levels["Gaudi software"] == levels["HABANA_VISIBLE_MODULES"] == levels["execution"] == "fail"
    assert levels["habana_frameworks.torch"] == "fail"


PLUGIN = """Metadata-Version: 2.1
Name: habana-torch-plugin
Version: {version}
"""


def test_a_release_of_the_driver_s_but_not_of_torch_s(gaudi, report, tmp_path, monkeypatch):
    gaudi(board="HL-205", driver="1.23.0")
    site = tmp_path / "site" / "habana_torch_plugin-1.23.0.695.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text(PLUGIN.format(version="1.23.0.695"))
    monkeypatch.syspath_prepend(str(site.parent))
    _, found = report("checks=[device]")
    assert found["Gaudi software"]["level"] == "ok"
    assert found["torch"]["level"] in ("fail", "warning"), "no wheel of PyPI is the vendor's"
    assert found["generation"]["level"] == "fail"
    assert "1.21" in found["generation"]["todo"]


def test_a_tokenizer_that_cannot_be_exported_and_a_held_out_corpus_that_is_trained_on(
    report, small_corpus, tmp_path, capsys
):
    toy_text().tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "small").symlink_to(small_corpus / "small")
    (tmp_path / "other").symlink_to(small_corpus / "small")
    keys = [*run_of(tmp_path), f"tokenizer={tmp_path}/tokenizer.json", "data.validation=other"]
    _, found = report("checks=[data]", *keys)
    assert found["tokenizer"]["level"] == found["data.validation"]["level"] == "warning"
    assert "`bridgetower export` will refuse" in found["tokenizer"]["found"]
    assert found["data.validation"]["found"].startswith("other is trained on too (data.corpora: small)")
    lines = [
        f"warning   {name}: {found[name]['found']}; {found[name]['todo']}" for name in ("tokenizer", "data.validation")
    ]
    train = [*TINY, *keys, "validation.every=1", "steps=1", f"run_dir={tmp_path}/run"]
    for steps in (1, 2):
        assert main(["train", *train, f"steps={steps}"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line for line in said if line in lines] == lines[::-1]
