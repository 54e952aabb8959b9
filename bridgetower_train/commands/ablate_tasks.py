"""`bridgetower ablate tasks=true`: tiny models learn the tasks about drawn images, and blind ones cannot."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from bridgetower_train.devices import make_device
from bridgetower_train.evaluation.protocol import read_evaluations
from bridgetower_train.pages.markdown import code, table, text
from bridgetower_train.pages.numbers import duration
from bridgetower_train.pages.run_folder import read_run
from bridgetower_train.versions import versions
from bridgetower_train.weights.saved import read_config

TASKS = {
    "vqav2": ["images={files}/{split}2014", "questions={files}/v2_OpenEnded_mscoco_{split}2014_questions.json",
              "annotations=[{files}/v2_mscoco_train2014_annotations.json,{files}/v2_mscoco_val2014_annotations.json]"],
    "snli_ve": ["images={files}/flickr30k-images", "annotations={files}/snli_ve_{dev}.jsonl"],
    "nlvr2": ["images={files}/{shown}", "annotations={files}/{dev}.json"],
}  # fmt: skip
"""Task -> the keys of its preparation; {files} is its folder, {split} train or val, {dev} what SNLI-VE and NLVR2 call it, {shown}
where NLVR2 has its images."""

MODEL = ["experiment=demo", "model.patch_size=16"]
"""The demo, with a quarter of its patches, which halves the work."""

PRETRAINING = [*MODEL, "steps=3000", "optim.lr=5e-4", "checkpoint.every=25%", "validation.every=10%"]
"""What pretrains: five times as long as the demo, the towers at half of its rate."""

RECIPE = [
    *MODEL, "model.max_text_len=12", "data.shuffle=whole", "optim.lr=1e-4", "optim.lr_fusion=5e-4", "checkpoint.every=25%",
    "validation.every=10%", "validation.samples=512",
]  # fmt: skip
"""What trains each task. Higher rates spoil what was pretrained."""

STEPS = {"vqav2": 1500, "snli_ve": 1500, "nlvr2": 750}
"""Steps of a run; NLVR2's have two images a text."""

VARIANTS = {
    "pretrained as the demo": ["init.checkpoint={pretrained}"],
    "pretrained as the demo, blind": ["init.checkpoint={pretrained}", "classifier.blind=true"],
    "from random weights": ["model.init_std=0.12", "optim.lr_fusion=1e-4", "optim.lr_heads=1e-4"],
}
"""Row of the table -> overrides of its runs; {pretrained} is the run that was pretrained."""

ONLY = {"from random weights": ("vqav2",)}
"""Row of the table -> the tasks that have it; the others are of all."""


def preparations(data: str) -> list[list[str]]:
    """The commands that prepare the corpora of the tasks below `data`."""
    made = [["prep", "shapes", f"out={data}", "tasks=true", "simple=true"]]
    for task, keys in TASKS.items():
        for split in ("train", "val"):
            dev, shown = ("dev", "dev") if split == "val" else (split, "images/train")
            files = f"{data}/shapes_tasks/{task}"
            given = [key.format(files=files, split=split, dev=dev, shown=shown) for key in keys]
            made.append(["prep", task, *given, f"out={data}", "size=64"])
    return made


def training(task: str, data: str, folder: Path) -> list[str]:
    """The keys of a run of a task, without those of its variant and seed."""
    corpora = [f"data.corpora={{{task}_train: 1}}", f"data.validation={task}_val"]
    return [*RECIPE, f"steps={STEPS[task]}", f"task={task}", f"data.root={data}", *corpora, f"run_dir={folder}"]


def rows(task: str) -> dict[str, list[str]]:
    """Row of a task's table -> overrides of its runs."""
    return {name: overrides for name, overrides in VARIANTS.items() if task in ONLY.get(name, TASKS)}


def results(folders: dict[str, dict[str, list[Path]]]) -> str:
    """The page, in Markdown; `folders`: task -> row -> its runs."""
    first = read_config(next(iter(folders["vqav2"].values()))[0])
    pretrained = read_config(Path(first.init.checkpoint or ""))
    device, _ = make_device(first.device)
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    parts = [
        "# What tiny models learn of the tasks\n",
        f"Texts about drawn images of {first.model.image_size} px in patches of {first.model.patch_size}, in batches of "
        f"{first.global_batch}; tiny model, pretrained on captions of the images ({pretrained.steps} steps of "
        f"{pretrained.global_batch}). The preparations read the texts from files in the layouts of VQAv2, SNLI-VE and NLVR2. "
        "Accuracy in percent on images that training never shows: mean and, where there are several seeds, standard deviation. "
        "Blind models see grey images, in training too: what they get right, the texts tell.\n",
        f"Made by `bridgetower ablate tasks=true` on {text(device.description)}; {text(installed)}.\n",
    ]
    for task, runs_of in folders.items():
        figures = {name: [_figures(task, folder) for folder in runs] for name, runs in runs_of.items()}
        columns = [name for name in next(iter(figures.values()))[0] if name.startswith("accuracy, ")]
        shown = [
            (name, len(runs), *(_mean([found[column] for found in figures[name]]) for column in columns), _time(runs))
            for name, runs in runs_of.items()
        ]
        header = ["", "seeds", *(column.removesuffix(", %") for column in columns), "time in training"]
        parts += [f"## {code(task)}\n", table(header, shown)]
        curves = {name: [_curve(folder) for folder in runs] for name, runs in runs_of.items()}
        steps = sorted(set.intersection(*(set(curve) for of_row in curves.values() for curve in of_row)))
        if steps:
            lines = [(name, *(_mean([c[step] for c in of_row]) for step in steps)) for name, of_row in curves.items()]
            parts += ["Accuracy by step, of one text of each image:\n", table(["", *(f"{s:,}" for s in steps)], lines)]
    return "\n".join(parts)


def _figures(task: str, folder: Path) -> dict[str, float]:
    kept = read_evaluations(folder / "eval.json").values()
    found: dict[str, float] = next(e["figures"] for e in kept if e["corpus"] == f"{task}_val")
    return found


def _curve(folder: Path) -> dict[int, float]:
    """Step -> accuracy in percent."""
    steps, values = read_run(folder).metrics.get("val_acc", ((), ()))
    return {int(step): 100 * float(value) for step, value in zip(steps, values, strict=True)}


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _time(runs: list[Path]) -> str:
    return duration(statistics.mean(read_run(folder).seconds() for folder in runs))
