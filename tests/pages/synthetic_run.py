"""A synthetic run folder to report on, as a run of a few hours might leave it."""

import base64
import hashlib
import io
import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from bridgetower_train.compose import to_yaml
from bridgetower_train.config import DataConfig, TrainConfig

HOSTILE = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"> & \"quoted\""


def drawn(seed: int, size: int = 96) -> Image.Image:
    """An image of a few coloured shapes."""
    rng = random.Random(seed)
    image = Image.new("RGB", (size, size), (236, 233, 226))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(size / 8, size / 4)
        shape = rng.choice([draw.ellipse, draw.rectangle])
        shape((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(30, 220) for _ in range(3)))
    return image


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def metric_line(step: int, steps: int) -> dict[str, Any]:
    """A line of metrics.jsonl as a run of a few hours might log it."""
    rng, gone = random.Random(step), step / steps
    mlm = 1.2 + 8.6 * math.exp(-9 * gone) + rng.gauss(0, 0.12)
    itm = 0.14 + 0.55 * math.exp(-5 * gone) + rng.gauss(0, 0.02)
    itc = 0.5 + 3.6 * math.exp(-6 * gone) + rng.gauss(0, 0.06)
    return {
        "step": step, "position": step * 64, "epoch": step * 64 / 20000,
        "loss": mlm + itm + itc, "loss_mlm": mlm, "loss_itm": itm, "loss_itc": itc,
        "acc_mlm": min(1, max(0, 0.72 - 0.7 * math.exp(-7 * gone) + rng.gauss(0, 0.02))),
        "acc_itm": min(1, max(0, 0.96 - 0.46 * math.exp(-6 * gone) + rng.gauss(0, 0.02))),
        "recall_itc": min(1, max(0, 0.8 - 0.78 * math.exp(-4 * gone) + rng.gauss(0, 0.03))),
        "grad_norm": math.exp(rng.gauss(0.4, 0.3)) * (40 if rng.random() < 0.004 else 1),
        "lr": 1e-3 * min(gone / 0.1, (1 - gone) / 0.9), "logit_scale": 2.66 + 1.2 * gone,
        "samples_per_s": 231 + rng.gauss(0, 6) - (80 if rng.random() < 0.02 else 0), "step_s": 64 / 231,
        "data_wait": abs(rng.gauss(0.02, 0.01)), "mfu": None, "memory_gb": 1.9, "bad_samples": int(12 * gone),
        "skipped": 1 if gone > 0.3 else 0, "time": 1.76e9 + step * 64 / 231,
    }  # fmt: skip


def validation_line(step: int, steps: int) -> dict[str, Any]:
    line = metric_line(step, steps)
    names = ("loss", "loss_mlm", "loss_itm", "loss_itc", "acc_mlm", "acc_itm", "recall_itc")
    recall = {"val_i2t_r1": 0.7 * line["recall_itc"], "val_t2i_r1": 0.66 * line["recall_itc"]}
    return {"step": step, **{f"val_{n}": 1.04 * line[n] if "loss" in n else 0.96 * line[n] for n in names}, **recall}


def write_checkpoint(folder: Path, step: int) -> None:
    """A checkpoint of the layout that a run writes, with small weights."""
    folder = folder / f"step-{step:08d}"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"\0" * 300_000)
    (folder / "optimizer" / "0.safetensors").write_bytes(b"\0" * 600_000)
    state = {
        "step": step, "position": step * 64, "skipped": 1, "bad_samples": 12, "world_size": 1,
        "device": "CPU, 2 cores", "versions": {"bridgetower_train": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
        "identity": {"seed": 0, "data.lanes": 8, "order": hashlib.sha256(b"shapes").hexdigest()},
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    files = {
        str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def evaluation(folder: Path) -> dict[str, Any]:
    """What `eval.json` holds: figures, and retrieval examples with images."""
    uris = ["data:image/jpeg;base64," + base64.b64encode(jpeg(drawn(i))).decode() for i in range(6)]
    captions = [
        "a small striped red circle left of a large blue square", HOSTILE,
        "a green triangle above a plain yellow circle", "one large dotted purple square", "a tiny orange triangle",
    ]  # fmt: skip
    to_text = [{"text": c, "score": 0.97 - 0.21 * i, "right": i == 0} for i, c in enumerate(captions)]
    to_image = [{"image": uris[i], "score": 0.93 - 0.17 * i, "right": i == 1} for i in range(5)]
    figures = {
        "image-text matching accuracy": 0.9713, "probe word accuracy": 0.9961,
        "probe word accuracy, image blanked": 0.1212, "image to text R@1 among 128": 0.7734,
        "text to image R@1 among 128": 0.7421,
    }  # fmt: skip
    examples = [
        {"query_kind": "image", "image": uris[5], "text": captions[0], "results": to_text},
        {"query_kind": "image", "image": uris[4], "text": captions[3], "results": to_text[::-1]},
        {"query_kind": "text", "text": captions[2], "results": to_image},
        {
            "query_kind": "text",
            "text": HOSTILE,
            "results": [{"image": "data:image/jpeg;base64,gone", "score": 0.2}, *to_image[:3]],
        },
    ]
    return {"step": 3000, "corpus": "shapes_heldout", "figures": figures, "examples": examples}


def write_run(folder: Path, steps: int = 3000) -> Path:
    """A finished run, with hostile text wherever data can bring text in."""
    folder.mkdir()
    config = TrainConfig(
        run_dir=str(folder), steps=str(steps), tokenizer="data/shapes/tokenizer.json",
        data=DataConfig(root="data", corpora={"shapes": 1.0}, validation="shapes_heldout"),
    )  # fmt: skip
    (folder / "config.yaml").write_text(to_yaml(config))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(10, steps + 1, 10):
            file.write(json.dumps(metric_line(step, steps)) + "\n")
            if step % 500 == 0:
                file.write(json.dumps(validation_line(step, steps)) + "\n")
    reasons = ["cut short", "too many pixels", HOSTILE]
    bad = [
        {"corpus": "shapes", "shard": f"{i:06d}.tar", "key": f"{i:08d}", "reason": reasons[i % 3], "position": i * 977}
        for i in range(12)
    ]
    (folder / "bad_samples.jsonl").write_text("".join(json.dumps(b) + "\n" for b in bad))
    for step in (steps - 1000, steps):
        write_checkpoint(folder / "checkpoints", step)
    (folder / "eval.json").write_text(json.dumps(evaluation(folder)))
    return folder
