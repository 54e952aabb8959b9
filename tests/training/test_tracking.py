"""What W&B and other trackers receive, in real runs; W&B's offline files are read as `wandb sync` does."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgetower_train.config import TrainConfig, WandbConfig
from bridgetower_train.training.tracking import Wandb
from bridgetower_train.weights.checkpoint import step_folders
from tests.training.runs import train_here

QUIET = {"WANDB_SILENT": "true", "WANDB_API_KEY": "", "NETRC": "/nonexistent"}
KEY = "0" * 40
GALLERIES = ("masked_lm", "retrieval")


def pieces(run_dir: Path) -> list[Path]:
    """What was logged offline, oldest first."""
    return sorted((run_dir / "wandb").glob("offline-run-*/*.wandb"))


def records(path: Path) -> Iterator:
    """The records of W&B's log: LevelDB's format, whose blocks have 32 KiB, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if at + 7 + length > len(data):  # torn by a kill
            return
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(parts)
            parts = b""


def logged(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, what was logged at it); of images the parts, as `NAME/captions`."""
    for record in records(path):
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if items:
            yield items["_step"], {key: value for key, value in items.items() if not key.startswith("_")}


def history(path: Path) -> dict[int, dict[str, float]]:
    """Step -> the figures that were logged at it."""
    return {step: {k: v for k, v in items.items() if not k.startswith(GALLERIES)} for step, items in logged(path)}


def captions(path: Path) -> dict[int, dict[str, list[str]]]:
    """Step -> evaluation -> the captions of its images, each of which has a file."""
    shown: dict[int, dict[str, list[str]]] = {}
    for step, items in logged(path):
        for name in (name for name in GALLERIES if f"{name}/filenames" in items):
            assert all((path.parent / "files" / file).is_file() for file in items[f"{name}/filenames"])
            shown.setdefault(step, {})[name] = items[f"{name}/captions"]
    return shown


def exit_codes(path: Path) -> list[int]:
    """With which it ended."""
    return [record.exit.exit_code for record in records(path) if record.HasField("exit")]


def assert_whole(path: Path, run_dir: Path) -> None:
    """Everything in metrics.jsonl is in this piece."""
    expected: dict[int, dict[str, float]] = {}
    for line in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        figures = {key: value for key, value in line.items() if isinstance(value, int | float) and key != "step"}
        expected.setdefault(line["step"], {}).update(figures)
    assert history(path) == expected


@pytest.fixture
def environment(monkeypatch):
    """Sets variables of W&B, which it reads once: its process ends, and with it all is written."""
    import wandb

    def environment(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()

    yield environment
    wandb.teardown()


def test_each_offline_piece_is_whole_and_a_failed_run_is_failed(tmp_path, shapes_root, start, environment):
    keys = ("wandb.project=test", "tensorboard=true", "checkpoint.every=2", "validation.every=2")
    job = start(tmp_path, *keys, "steps=1000", env=QUIET)
    assert job.wait_for_step(5)
    job.kill()
    environment(**QUIET)
    step = int(step_folders(tmp_path)[-1].name[5:])
    train_here(shapes_root, tmp_path, *keys, f"steps={step + 2}")
    environment()
    first, second = pieces(tmp_path)
    assert_whole(second, tmp_path)
    assert (exit_codes(first), exit_codes(second)) == ([], [0])
    of_step = captions(second)[step + 2]
    assert len(of_step["masked_lm"]) == 8
    assert all(re.fullmatch(r".*<mask>.*: .+, is .+", caption) for caption in of_step["masked_lm"])
    assert len(of_step["retrieval"]) == 9
    assert all(re.fullmatch(r"[123] of 16 for: .+ \(-?[01]\.\d\d(, right)?\)", c) for c in of_step["retrieval"])
    diverging = ("optim.lr=1e30", "optim.lr_fusion=1e30", "guards.max_skipped=2", "optim.warmup=0")
    train_here(shapes_root, tmp_path, *keys, f"steps={step + 20}", *diverging, code=1)
    environment()
    *_, third = pieces(tmp_path)
    assert_whole(third, tmp_path)
    assert exit_codes(third) == [1]
    run_id = (tmp_path / "wandb_id").read_text()
    assert all(path.stem == f"run-{run_id}" for path in pieces(tmp_path))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_server_that_cannot_be_reached_is_one_line(tmp_path, train):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {KEY}")
    env = {**QUIET, "NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}
    output = train(tmp_path / "run", "wandb.project=test", "steps=3", env=env)
    assert re.search(
        r"^wandb     cannot be reached \(.+\); this start is logged offline, see `wandb sync`$", output, re.M
    )
    assert "Traceback" not in output
    assert_whole(pieces(tmp_path / "run")[-1], tmp_path / "run")


@pytest.mark.parametrize(("mode", "files"), [("offline", 1), ("disabled", 0)])
def test_the_mode_of_the_environment_counts(tmp_path, environment, mode, files):
    environment(WANDB_API_KEY=KEY, WANDB_MODE=mode, WANDB_SILENT="true")
    sink = Wandb(TrainConfig(steps="1", run_dir=str(tmp_path), wandb=WandbConfig("test")), "abc")
    sink.write({"step": 1, "loss": 2.0})
    sink.close(failed=False)
    environment()
    assert [history(path) for path in pieces(tmp_path)] == [{1: {"loss": 2.0}}] * files
