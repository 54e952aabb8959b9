"""Writes `run_VERSION.tar.xz`: what the installed version leaves on disk, for every later version to read.

Run once for a version, in its own environment: `python write.py run_a9486db.tar.xz`. The archive has

- `data/`: the corpora `shapes` and `shapes_heldout`, drawn, with their tokenizer;
- `run/`: a run of six steps that was killed after the fifth, with checkpoints of steps 2 and 4 and every evaluation;
- `image.jpg`, one of the held-out images, and `expected/`: what that version made of all of it afterwards. `predict.txt` is what
  `predict` printed, `resumed.jsonl` the metrics of the run once it had resumed, `tuned.jsonl` those of one that started from it.

All paths in it are relative to the folder in which it is unpacked, where the commands are to be run.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

TRAIN = [
    "model.image_size=32", "model.patch_size=8", "model.width=64", "model.vision_layers=2", "model.text_layers=2",
    "model.fusion_layers=2", "model.max_text_len=24", "model.text_positions=26", "model.dropout=0", "objective.itc_dim=16",
    "global_batch=8", "data.lanes=4", "data.shuffle_window=64", "log_every=1", "tensorboard=false", "device=cpu",
    "data.root=data", "optim.lr=2e-3", "optim.lr_fusion=2e-3", "optim.lr_heads=2e-3", "optim.warmup=0",
    "steps=6", "checkpoint.every=2", "checkpoint.keep_last=9", "validation.every=2", "validation.samples=8",
]  # fmt: skip
PREDICT = [
    "predict",
    "run_dir=run",
    "image=image.jpg",
    "texts=['a large red circle', 'a small <mask> square']",
    "device=cpu",
]
FINE_TUNE = [*TRAIN, "run_dir=tuned", "init.checkpoint=run", "objective.itm_negatives=hard", "steps=2"]
WIDTH, CHANNELS = 64, 4


def bridgetower(*arguments: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "bridgetower_train", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_start(source: Path, start: Path) -> None:
    """Larger weights, so that pairs differ, in a few channels only: the others stay equal, and checkpoints pack well."""
    tensors = load_file(source)
    for tensor in tensors.values():
        tensor *= 0.5 / tensor.std() if tensor.dim() > 1 else 1
        for axis, size in enumerate(tensor.shape):
            if size % WIDTH == 0:
                shape = [1] * axis + [size] + [1] * (tensor.dim() - axis - 1)
                tensor *= (torch.arange(size) % WIDTH < CHANNELS).view(shape)
    save_file(tensors, start)


def write_all() -> None:
    """Fill the current folder."""
    bridgetower("prep", "shapes", "out=data", "records=24", "heldout=12", "size=32", "workers=1")
    bridgetower("train", *TRAIN, "run_dir=untrained", "optim.lr=0", "optim.lr_fusion=0", "optim.lr_heads=0", "steps=1")
    write_start(Path("untrained/checkpoints/step-00000001/model.safetensors"), Path("start.safetensors"))
    bridgetower("train", *TRAIN, "run_dir=run", "init.checkpoint=start.safetensors")

    # As a kill during the sixth step leaves it.
    shutil.rmtree("run/checkpoints/step-00000006")
    Path("run/checkpoints/latest").write_text("step-00000004")
    metrics = Path("run/metrics.jsonl")
    whole = metrics.read_text()
    metrics.write_text("".join(line for line in whole.splitlines(True) if json.loads(line)["step"] < 6))

    for evaluation in (["eval"], ["eval", "retrieval", "rerank=4"], ["eval", "matching"], ["eval", "masked_lm"]):
        bridgetower(*evaluation, "run_dir=run", "device=cpu")
    record = np.load("data/shapes_heldout/index.npy")[0]
    shard = Path("data/shapes_heldout/000000.tar").read_bytes()
    Path("image.jpg").write_bytes(shard[record["jpg_offset"] :][: record["jpg_size"]])
    Path("expected").mkdir()
    Path("expected/predict.txt").write_text(bridgetower(*PREDICT))
    shutil.copytree("run", "resumed")
    bridgetower("train", *TRAIN, "run_dir=resumed")
    shutil.copy("resumed/metrics.jsonl", "expected/resumed.jsonl")
    bridgetower("train", *FINE_TUNE)
    shutil.copy("tuned/metrics.jsonl", "expected/tuned.jsonl")


def main() -> None:
    """Write the archive that the command line names."""
    archive = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_all()
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for name in ("data", "run", "image.jpg", "expected"):
                tar.add(name)
        os.chdir("/")


if __name__ == "__main__":
    main()
