"""Runs on damaged shards and in run folders that others changed: named, counted, replaced or refused, and never a hang."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from helpers import run_ranks

from bridgetower_train.config import CheckpointConfig
from bridgetower_train.distributed import Ranks
from bridgetower_train.errors import UserError
from bridgetower_train.tasks.pretraining.reader import PretrainingReader
from bridgetower_train.training.checkpoints import Checkpoints
from bridgetower_train.weights.checkpoint import step_folders
from data_prep.shards import index
from tests.hostile.attacks import attack
from tests.training.runs import metric_lines, train_here


@pytest.fixture
def damaged(shapes_root, tmp_path):
    """A copy of the corpora, and a function that flips a byte in the images of some rows of `shapes`."""
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)

    def damage(rows):
        rows_of = np.load(root / "shapes" / "index.npy")
        path = root / "shapes" / "000000.tar"
        content = bytearray(path.read_bytes())
        for row in rows:
            content[int(rows_of["jpg_offset"][row]) + 50] ^= 1
        path.write_bytes(content)
        return root

    return damage


def test_bad_records_are_replaced_counted_and_listed(tmp_path, train, damaged):
    root = damaged([3, 40])
    options = ["steps=60", "data.max_bad_fraction=0.5"]
    output = train(tmp_path / "run", *options, root=root)
    assert "replaced 1 record that could not be used: shapes/000000.tar:shapes-0000000" in output
    listed = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert {(bad["corpus"], bad["shard"], bad["key"]) for bad in listed} == {
        ("shapes", "000000.tar", "shapes-000000003"),
        ("shapes", "000000.tar", "shapes-000000040"),
    }
    assert metric_lines(tmp_path / "run")[-1]["bad_samples"] == len(listed) == 10, "five captions each, in one epoch"
    assert all(bad["reason"] for bad in listed)

    train(tmp_path / "two", *options, "data.workers=2", root=root, ranks=2)
    again = [json.loads(line) for line in (tmp_path / "two" / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted(bad["position"] for bad in again) == sorted(bad["position"] for bad in listed)


def test_too_many_bad_records_stop_the_run(tmp_path, damaged, capsys):
    train_here(damaged(range(0, 96, 4)), tmp_path / "run", "steps=60", code=1)
    error = capsys.readouterr().err
    assert "data.max_bad_fraction=0.01" in error
    assert "shapes/000000.tar" in error


def test_a_shard_of_another_size_is_refused_before_training(tmp_path, damaged, capsys):
    root = damaged([])
    shard = root / "shapes" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    train_here(root, tmp_path / "run", "steps=2", code=1)
    error = capsys.readouterr().err
    assert "000000.tar" in error
    assert "prep index" in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_corpus_that_changed_since_the_checkpoint_is_refused(tmp_path, damaged, capsys):
    root = damaged([])
    train_here(root, tmp_path / "run", "steps=2")
    damaged([5])
    index.run(index.IndexConfig(root=str(root / "shapes")))
    train_here(root, tmp_path / "run", "steps=4", code=1)
    assert "belongs to another run" in capsys.readouterr().err


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_loader_worker_ends_the_run_and_says_what_to_change(tmp_path, start, ranks):
    job = start(tmp_path / "run", "steps=100000", "data.workers=2", "checkpoint.every=100000", ranks=ranks)
    assert job.wait_for_step(2), job.wait()
    trainers = [p for p in job.family() if "train" in p.cmdline() and "torch.distributed.run" not in p.cmdline()]
    rank = [p for p in trainers if p.parent() not in trainers][-1]
    worker = next(p for p in rank.children() if p in trainers)
    worker.kill()
    output = job.finish(1)
    assert "error: DataLoader worker " in output
    assert "lower data.workers=2 or data.prefetch=4" in output
    assert "RuntimeError" not in output
    assert output.count("Traceback") == ranks - 1, "torchrun's own"


def test_an_error_inside_a_worker_is_not_taken_for_its_death(tmp_path, shapes_root, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(PretrainingReader, "labels", broken)
    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker process 0"):
        train_here(shapes_root, tmp_path / "run", "steps=2", "data.workers=1")


# --- run folders


def seal(folder: Path, state: bytes) -> None:
    """Give a checkpoint another state, and a manifest that lists it."""
    (folder / "state.json").write_bytes(state)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refusals(rank: int, runs: list[Path]) -> list[str]:
    """What a rank says on resuming each run, of which only rank 0 sees the folder."""
    said = []
    for run_dir in runs:
        ranks = Ranks(rank, dist.get_world_size(), dist.group.WORLD)
        seen = run_dir if ranks.is_main else Path("/nowhere")
        with pytest.raises(UserError) as caught:
            Checkpoints(seen, CheckpointConfig(), ranks, print).find({}, {})
        said.append(str(caught.value))
    return said


@attack(52)
def test_a_state_of_another_shape_ends_every_rank_with_one_line(tmp_path, shapes_root, capsys):
    train_here(shapes_root, tmp_path / "run", "steps=1")
    (folder,) = step_folders(tmp_path / "run")
    state = json.loads((folder / "state.json").read_text())
    broken = {
        "list": b"[]",
        "nesting": b"[" * 100_000,
        "digits": b'{"step": ' + b"9" * 5000 + b"}",
        "no identity": json.dumps({**state, "identity": []}).encode(),
        "text": json.dumps({**state, "skipped": "1"}).encode(),
        "negative": json.dumps({**state, "bad_samples": -1}).encode(),
        "huge": json.dumps({**state, "skipped": 10**30}).encode(),
        "another step": json.dumps({**state, "step": 2}).encode(),
    }
    runs = []
    for name, content in broken.items():
        runs.append(tmp_path / name)
        shutil.copytree(tmp_path / "run", runs[-1])
        seal(*step_folders(runs[-1]), content)
    first, second = run_ranks(refusals, 2, runs)
    assert first == second
    for run_dir, said in zip(runs, first, strict=True):
        assert said.startswith(str(run_dir))
        assert "state.json" in said
        assert "\n" not in said
    capsys.readouterr()
    train_here(shapes_root, tmp_path / "list", "steps=2", code=1)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"[" * 100_000, b'{"files": {}}', b'{"files": {"state.json": {"bytes": 1e400, "sha256": ""}}}']
)  # fmt: skip
def test_a_manifest_of_another_shape_is_that_of_no_checkpoint(tmp_path, shapes_root, capsys, manifest):
    train_here(shapes_root, tmp_path, "steps=1")
    (step_folders(tmp_path)[0] / "manifest.json").write_bytes(manifest)
    train_here(shapes_root, tmp_path, "steps=2", code=1)
    assert "manifest.json is missing or damaged" in capsys.readouterr().out


@attack(50)
@pytest.mark.parametrize("name", ["metrics.jsonl", "bad_samples.jsonl"])
def test_what_is_no_file_is_not_waited_for(tmp_path, shapes_root, capsys, name):
    os.mkfifo(tmp_path / name)
    train_here(shapes_root, tmp_path, "steps=1", code=1)
    error = capsys.readouterr().err
    assert f"{name}: is not a regular file; remove or replace it" in error
    assert error.count("\n") == 1


@attack(51)
def test_lines_of_others_do_not_keep_a_run_from_resuming(tmp_path, shapes_root):
    train_here(shapes_root, tmp_path, "steps=2")
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n"step"\n{"step": "1"}\n{"step": ' + b"9" * 5000 + b"}\n" + b"[" * 100_000 + b"\n\xff\n{")
    train_here(shapes_root, tmp_path, "steps=3")
    assert [line["step"] for line in metric_lines(tmp_path)] == [1, 2, 3]


@attack(61)
@pytest.mark.parametrize("name", ["x.tmp", "step-00000001.tmp", "step-00000001"])
def test_links_among_the_checkpoints_are_removed_and_not_followed(tmp_path, shapes_root, name):
    run_dir, victim = tmp_path / "run", tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "latest").symlink_to(victim / "kept")
    train_here(shapes_root, run_dir, "steps=2", "checkpoint.every=2")
    (run_dir / "checkpoints" / name).symlink_to(victim)
    train_here(shapes_root, run_dir, "steps=4", "checkpoint.every=1", "checkpoint.keep_last=2")
    assert [folder.name for folder in step_folders(run_dir)] == ["step-00000003", "step-00000004"]
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == [
        "latest",
        "step-00000003",
        "step-00000004",
    ]
    assert [path.read_text() for path in victim.iterdir()] == ["kept"]


@pytest.mark.nightly
@pytest.mark.parametrize("broken", ["weights", "tokenizer", "state", "log"])
def test_two_ranks_end_with_the_one_message(tmp_path, shapes_root, start, broken):
    run_dir, options, source = tmp_path / "run", [], tmp_path / "tower"
    source.mkdir()
    shutil.copy(shapes_root / "shapes" / "tokenizer.json", source)
    (source / "model.safetensors").write_bytes(b"\xff" * 99)
    if broken == "tokenizer":
        (source / "tokenizer.json").write_bytes(b"[" * 100_000)
    if broken in ("weights", "tokenizer"):
        options = [f"init.text={source}"]
    if broken == "state":
        train_here(shapes_root, run_dir, "steps=1")
        seal(*step_folders(run_dir), b"[]")
    if broken == "log":
        run_dir.mkdir()
        os.mkfifo(run_dir / "metrics.jsonl")
    output = start(run_dir, "steps=2", *options, ranks=2).finish(1)
    names = {
        "weights": "model.safetensors",
        "tokenizer": "tokenizer.json",
        "state": "state.json",
        "log": "metrics.jsonl",
    }
    said = {line for line in output.splitlines() if "error: " in line.lower() and names[broken] in line}
    assert len(said) == 1, output
    assert output.count("Traceback") == 1, "torchrun's own"
