"""The command line as a user meets it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridgetower_train import __version__
from bridgetower_train.cli import COMMANDS, main
from tests.tiny import TINY

ROOT = Path(__file__).parents[1]


def bridgetower(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridgetower_train", *arguments],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=400,
    )  # fmt: skip


def test_help_lists_every_command(capsys):
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_documents_its_keys(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = lines[lines.index("keys") + 1 :]
    assert len(keys) >= 2
    assert all(len(text.strip()) > 8 for text in keys[1::2]), "a key without documentation"


def test_help_and_version_in_every_place(capsys):
    for asked in (
        ["help"],
        ["help", "prep"],
        ["prep", "--help"],
        ["bench", "--help"],
        ["help", "train"],
        ["--version"],
    ):
        assert main(asked) == 0, asked
        printed = capsys.readouterr().out
        assert ("prep coco" in printed) == (
            (asked[0] == "help" and asked[1:] != ["train"]) or asked == ["prep", "--help"]
        )
        assert ("bench step" in printed) == (asked in (["help"], ["bench", "--help"]))
    assert printed.startswith(f"bridgetower-train {__version__}, ")


def test_help_shows_what_this_run_would_get(capsys):
    assert main(["train", "experiment=demo", "seed=7", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"  seed=7", "  run_dir=runs/demo", "  model.width=128", "  tokenizer=data/shapes/tokenizer.json"} <= {
        *lines
    }
    assert main(["prep", "coco", "-h"]) == 0
    printed = capsys.readouterr().out
    assert "example: bridgetower prep coco images=train2017" in printed
    assert "  images=required\n" in printed


def test_a_sweep_is_shown_without_training(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--multirun", "seed=1,2", "--help"]) == 0
    assert "  seed=1\n" in capsys.readouterr().out
    assert main(["train", "--multirun", "seed=1,2", "--cfg", "job"]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith(("# job", "seed", "run_dir"))] == [
        "# job 1 of 2: seed=1 run_dir=runs/train/seed=1", "run_dir: runs/train/seed=1", "seed: 1",
        "# job 2 of 2: seed=2 run_dir=runs/train/seed=2", "run_dir: runs/train/seed=2", "seed: 2",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_groups_of_your_own(capsys, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults: [demo]\nseed: 9\n")
    assert main(["train", f"--config-dir={tmp_path}", "experiment=mine", "--cfg", "job"]) == 0
    printed = capsys.readouterr().out
    assert "seed: 9" in printed
    assert "run_dir: runs/demo" in printed
    assert main(["train", "--config-dir", str(tmp_path), "-h"]) == 0
    assert "|mine|" in capsys.readouterr().out
    assert main(["eval", f"--config-dir={tmp_path}"]) == 2
    assert "eval has no groups to choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bridgetower tr", ["train"]),
        ("bridgetower prep sb", ["sbu"]),
        ("bridgetower train mod", ["model=", "model.image_size="]),
        ("bridgetower train model=", ["model=base", "model=large", "model=tiny"]),
        ("bridgetower train seed=1 tensorboard=", ["tensorboard=false", "tensorboard=true"]),
        ("bridgetower train data.root=sha", ["data.root=shards/"]),
    ],
)
def test_the_shell_completes(line, words, capsys, monkeypatch, tmp_path):
    (tmp_path / "shards").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMP_LINE", line)
    for shell in ("bash", "fish", "zsh"):
        assert main(["--shell-completion", f"query={shell}"]) == 0
        printed = capsys.readouterr().out.split()
        assert {*words} <= {*printed}
        assert all(word.startswith(line.split()[-1]) for word in printed)


def test_a_shell_installs_completion(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bridgetower"])
    script = bridgetower("--shell-completion", "install=bash").stdout
    assert subprocess.run(["bash", "-nc", script]).returncode == 0
    assert "-sc query=bash" in script


def test_cfg_job_prints_the_composed_configuration(capsys):
    assert main(["train", "--cfg", "job", "model=large", "seed=7"]) == 0
    printed = capsys.readouterr().out
    assert "seed: 7" in printed
    assert "patch_size: 14" in printed


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["trian", "did you mean 'train'"]),
        (["prep"], ["prep"]),
        (["train", "--halp"], ["--halp"]),
        (["train", "optim.lrr=1"], ["optim.lr"]),
        (["train", "tokenizer=/nowhere/tokenizer.json"], ["tokenizer=/nowhere/tokenizer.json"]),
        (["train", "device.name=tpu"], ["device.name=tpu", "cpu"]),
        (["prep", "coco", "out=x"], ["images and annotations are required"]),
        (["eval", "run_dir=/nowhere"], ["run_dir=/nowhere"]),
        (["report", "run_dir=/nowhere"], ["run_dir=/nowhere"]),
        (["prep", "index", "root=/nowhere"], ["root=/nowhere"]),
        (["prep", "coco", "out=x", "images=/nowhere", "annotations=/nowhere"], ["annotations=/nowhere"]),
    ],
)
def test_a_wrong_configuration_exits_2_with_one_message(arguments, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert all(part in message for part in parts), message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: is no number"),
        ({"WORLD_SIZE": "1", "RANK": "1", "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1: is no number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK and MASTER_ADDR and MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "99999"}, "MASTER_PORT=99999: is no port"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "9999"}, "RANK=2 with WORLD_SIZE=2"),
    ],
)
def test_variables_that_a_launcher_has_left_are_told(left, told, capsys, monkeypatch, shapes_root, tmp_path):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert main(["train", *TINY, f"data.root={shapes_root}", f"run_dir={tmp_path}"]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_ranks_that_cannot_meet_are_told(rank, capsys, monkeypatch, shapes_root, tmp_path):
    for name, value in {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("bridgetower_train.rendezvous.listen", lambda port: _refuse())
    assert main(["train", *TINY, f"data.root={shapes_root}", f"run_dir={tmp_path}", "distributed.timeout=1"]) == 1
    message = capsys.readouterr().err
    assert f"error: rank {rank} of 2 cannot meet the others at 127.0.0.1, port 9: " in message


def _refuse() -> None:
    raise OSError(98, "Address already in use")


def test_output_that_nobody_reads_ends_nothing_and_a_full_disk_is_told():
    command = f"{sys.executable} -m bridgetower_train"
    shell = ["bash", "-c", f"{command} --help | true; echo ${{PIPESTATUS[0]}}; {command} --help >&-; echo $?; "
             f"{command} --help >/dev/full; echo $?"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(shell, capture_output=True, text=True, env=env, timeout=400)
    assert result.stdout.split() == ["0", "0", "1"]
    assert result.stderr == "error: not all output could be written: No space left on device; all else is done\n"


def test_a_missing_data_root_exits_2(capsys, tmp_path, monkeypatch, shared):
    monkeypatch.chdir(tmp_path)
    tokenizer = shared / "tokenizer" / "roberta-base"
    assert main(["train", "data=coco", "data.root=/nowhere", f"tokenizer={tokenizer}"]) == 2
    assert "data.root=/nowhere" in capsys.readouterr().err


def test_as_a_process_without_traceback(tmp_path):
    result = bridgetower("train", "model.width=100", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "error: model.width=100: must be a multiple of 64\n"


def test_multirun_gives_each_job_its_own_folder(shapes_root, tmp_path):
    keys = ["steps='1 steps','8 samples'", *TINY, f"data.root={shapes_root}", f"run_dir={tmp_path}"]
    result = bridgetower("train", "--multirun", *keys)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["steps=1 steps", "steps=8 samples"]
    assert all((job / "metrics.jsonl").exists() for job in tmp_path.iterdir())


def test_only_devices_name_a_platform():
    names = re.compile(r"torch\.(cuda|hpu)\b|habana_frameworks|['\"](cuda|hpu)['\"]")
    product = [p for folder in ("bridgetower_train", "data_prep") for p in (ROOT / folder).rglob("*.py")]
    assert len(product) > 30
    offenders = [str(p) for p in product if "devices" not in p.parts and names.search(p.read_text())]
    assert offenders == []
