"""Runs on damaged shards: named, counted, replaced or refused, and never a hang."""

import json
import shutil

import numpy as np
import pytest

from bridgetower_train.tasks.pretraining.reader import PretrainingReader
from data_prep.shards import index
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
    assert "replaced 1 records that could not be used: shapes/000000.tar:shapes-0000000" in output
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
