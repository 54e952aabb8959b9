"""`bridgetower ablate tasks=true`: tiny models learn the tasks about drawn images, and blind ones cannot."""

import statistics
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

RECIPE = ["experiment=demo", "steps=1000", "model.max_text_len=16", "data.shuffle=whole", "validation.every=0"]
"""What trains each task; of the demo's recipe the model, the batch and the rates are left."""

VARIANTS = {
    "from random weights": [],
    "from random weights, blind": ["classifier.blind=true"],
    "from the demo's pretraining": ["init.checkpoint={pretrained}"],
}
"""Row of the table -> overrides of its runs; {pretrained} is the run that was pretrained."""


def preparations(data: str) -> list[list[str]]:
    """The commands that prepare the corpora of the tasks below `data`."""
    made = [["prep", "shapes", f"out={data}", "tasks=true"]]
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
    return [*RECIPE, f"task={task}", f"data.root={data}", *corpora, f"run_dir={folder}"]


def results(folders: dict[str, dict[str, list[Path]]]) -> str:
    """The page, in Markdown; `folders`: task -> row -> its runs."""
    first = read_config(next(iter(folders["vqav2"].values()))[0])
    device, _ = make_device(first.device)
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    parts = [
        "# What tiny models learn of the tasks\n",
        f"{text(first.steps)} steps of {first.global_batch} texts about drawn images of {first.model.image_size} px, tiny model. "
        "The preparations read them from files in the layouts of VQAv2, SNLI-VE and NLVR2. Accuracy in percent on images whose "
        "combinations of colour, shape and texture training never shows: mean and, where there are several seeds, standard "
        "deviation. Blind models see grey images, in training too: what they get right, the texts tell.\n",
        f"Made by `bridgetower ablate tasks=true` on {text(device.description)}; {text(installed)}.\n",
    ]
    for task, rows in folders.items():
        shown = [(name, str(len(runs)), _accuracy(task, runs), _time(runs)) for name, runs in rows.items()]
        parts += [f"## {code(task)}\n", table(["", "seeds", "accuracy, %", "time in training"], shown)]
    return "\n".join(parts)


def _accuracy(task: str, runs: list[Path]) -> str:
    found = []
    for folder in runs:
        kept = read_evaluations(folder / "eval.json").values()
        found += [e["figures"]["accuracy, %"] for e in kept if e["corpus"] == f"{task}_val"][:1]
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.2f}{spread}" if found else ""


def _time(runs: list[Path]) -> str:
    return duration(statistics.mean(read_run(folder).seconds() for folder in runs))
