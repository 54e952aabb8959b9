"""Runs, corpora and exports on disks that misbehave: NFS as others see it, one that fills, and one that turns read-only."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgetower_train.weights.checkpoint import step_folders, verify
from tests.helpers import files
from tests.serving import of_folder, serving
from tests.tiny import TINY
from tests.training.runs import final_weights, metric_lines, train_here

HERE = Path(__file__).parent
KEYS = [
    "checkpoint.every=1", "validation.every=2", "validation.samples=4", "checkpoint.best=val_loss", "tensorboard=true",
    "data.workers=0", "optim.schedule=constant", "optim.warmup=0",
]  # fmt: skip
NFS, FULL, READ_ONLY = "n", "f", "r"


@pytest.fixture(scope="module")
def layer(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or not compiler:
        pytest.skip("the layer over the disk is C for Linux, and needs a compiler")
    built = tmp_path_factory.mktemp("layer") / "layer.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", built, HERE / "layer.c", "-ldl"], check=True)
    return built


@pytest.fixture
def on_disk(layer, tmp_path) -> Callable[[list[dict]], list[dict]]:
    """Runs commands one after the other, as `driver.call` takes them, on the disk in `tmp_path / "disk"`; how each ended."""
    (tmp_path / "disk").mkdir()

    def run(calls: list[dict]) -> list[dict]:
        command = [sys.executable, HERE / "driver.py", tmp_path / "is", tmp_path / "disk"]
        env = {"LD_PRELOAD": layer, "BAD_DISK": tmp_path / "disk", "BAD_DISK_IS": tmp_path / "is"}
        env |= {"PYTHONPATH": HERE.parents[1], "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            command,
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            env={**os.environ, **{k: str(v) for k, v in env.items()}},
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


def call(disk: str, *arguments: object, then: dict | None = None) -> dict:
    return {"disk": disk, "arguments": list(map(str, arguments)), "then": then}


def train(disk: str, root: object, run_dir: Path, *keys: str, then: dict | None = None) -> dict:
    return call(disk, "train", *TINY, *KEYS, f"data.root={root}", f"run_dir={run_dir}", *keys, then=then)


def test_on_nfs_everything_is_written_and_nothing_differs(on_disk, shapes_root, tmp_path):
    disk, run, tokenizer = (
        tmp_path / "disk",
        tmp_path / "disk" / "run",
        f"tokenizer={shapes_root}/shapes/tokenizer.json",
    )
    shapes = ("prep", "shapes", "records=64", "heldout=16", "size=32", "workers=1")
    with serving(of_folder(shapes_root)) as address:
        *ends, cache = on_disk(
            [
                call(NFS, *shapes, f"out={disk}/data"),
                train(NFS, shapes_root, run, "steps=4"),
                train(NFS, shapes_root, run, "steps=6"),
                call(NFS, "eval", f"run_dir={run}", f"root={shapes_root}"),
                call(NFS, "export", f"run_dir={run}", f"out={disk}/export"),
                call(NFS, "report", f"run_dir={run}"),
                train(NFS, f"http://{address}", disk / "other", f"data.cache_dir={disk}/cache", tokenizer, "steps=1"),
            ]
        )
    for end in ends:
        assert end["code"] == 0, end["output"]
    assert "its file system has no locks" in ends[0]["output"]
    assert cache["code"] == 1
    assert cache["output"].endswith("No locks available; name a folder on a disk that works\n")

    plain = tmp_path / "plain"
    train_here(shapes_root, plain, *KEYS, "steps=6")
    assert metric_lines(run) == metric_lines(plain)
    assert final_weights(run) == final_weights(plain)
    assert {path.name for path in (disk / "export").iterdir()} >= {"model.safetensors", "config.json", "README.md"}
    assert json.loads((run / "eval.json").read_text())["evaluations"]
    assert not list(disk.rglob("*.tmp"))
    assert len(files(disk / "data" / "shapes")) == len(files(shapes_root / "shapes"))


@pytest.mark.parametrize(
    ("disk_is", "why"),
    [
        pytest.param(FULL, "No space left on device", marks=pytest.mark.nightly),
        (READ_ONLY, "Read-only file system"),
    ],
)
def test_a_disk_that_fails_on_the_way_is_named_and_nothing_is_lost(on_disk, shapes_root, tmp_path, disk_is, why):
    disk = tmp_path / "disk"
    run, shapes = (
        disk / "run",
        ("prep", "shapes", "records=400", "heldout=16", "size=32", "workers=1", f"out={disk}/data"),
    )
    reads = (
        call(disk_is, "eval", f"run_dir={run}", f"root={shapes_root}"),
        call(disk_is, "export", f"run_dir={run}", f"out={disk}/export"),
        call(disk_is, "report", f"run_dir={run}"),
        train(disk_is, shapes_root, run, "steps=9"),
        train(disk_is, shapes_root, disk / "new", "steps=9"),
    )
    stopped, prepared, resumed, again, *refused = on_disk(
        [
            train(
                "", shapes_root, run, "steps=100000", then={"when": "run/metrics.jsonl", "bytes": 2000, "disk": disk_is}
            ),
            call("", *shapes, then={"when": "data/shapes/spool/*", "bytes": 9000, "disk": disk_is}),
            train("", shapes_root, run, "steps=20"),
            call("", *shapes),
            *reads,
        ]
    )
    for end in (stopped, prepared, *refused):
        assert end["code"] == 1, end["output"]
        assert "Traceback" not in end["output"]
        *_, last = end["output"].splitlines()
        assert last.startswith(("error: ", "cannot write "))
        assert why in last
        assert str(disk) in last
    assert (resumed["code"], again["code"]) == (0, 0), resumed["output"] + again["output"]
    assert "resume    from step" in resumed["output"]
    assert [verify(folder) for folder in step_folders(run)] == [None] * len(step_folders(run))
    plain = tmp_path / "plain"
    train_here(shapes_root, plain, *KEYS, "steps=20")
    assert metric_lines(run) == metric_lines(plain)
    assert final_weights(run) == final_weights(plain)
