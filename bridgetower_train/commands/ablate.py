"""`bridgetower ablate`: what losses, ways to train them and re-ranking contribute: the demo with and without, on several seeds.

The images of the demo's corpus are square, and squashing changes nothing of them: crop and squash are compared on stretched
images, whose sides a crop cuts off.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridgetower_train.commands import ablate_tasks
from bridgetower_train.config import at_least
from bridgetower_train.devices import make_device
from bridgetower_train.display import print_line
from bridgetower_train.errors import ConfigError, UserError
from bridgetower_train.evaluation import EVALUATIONS
from bridgetower_train.evaluation.protocol import read_evaluations
from bridgetower_train.files import atomic_write
from bridgetower_train.jobs import run_job
from bridgetower_train.pages.markdown import code, table, text
from bridgetower_train.tasks import step_flops
from bridgetower_train.versions import versions
from bridgetower_train.weights.checkpoint import step_folders, step_of
from bridgetower_train.weights.saved import read_config

VARIANTS = {
    "all three": [],
    "without MLM": ["objective.mlm=0"],
    "without ITM": ["objective.itm=0"],
    "without ITC": ["objective.itc=0"],
    "all three, hard ITM negatives": ["objective.itm_negatives=hard"],
    "all three, hard ITM negatives from 20% on": ["objective.itm_negatives=hard", "objective.hard_after=20%"],
    "all three, then as long with hard ITM negatives": ["init.checkpoint={all_three}", "objective.itm_negatives=hard"],
    "all three, then as long with hard ITM negatives, towers frozen": [
        "init.checkpoint={all_three}", "objective.itm_negatives=hard", "optim.freeze=[image,text]",
    ],
    "all three, 8 micro-batches, contrast among all": ["data.lanes=8", "micro_batch=8"],
    "all three, 8 micro-batches, contrast within each": [
        "data.lanes=8", "micro_batch=8", "objective.contrast=micro_batch",
    ],
    "all three, wide images, cropped": ["data.root={wide}"],
    "all three, wide images, squashed": ["data.root={wide}", "data.square=squash"],
}  # fmt: skip
"""Row of the table -> overrides of its runs; {all_three} is the run of that row with the same seed, {wide} the key `wide`."""

COLUMNS = {
    "Matching": ("matching", ["accuracy", "AUC", "ECE"]),
    "Masked words": ("masked_lm", ["accuracy", "accuracy, image blanked", "accuracy, image swapped", "perplexity"]),
    "Retrieval by ITC": ("retrieval", ["image to text R@1", "text to image R@1", "RSUM"]),
    "Retrieval, re-ranked by ITM": ("retrieval", ["image to text R@1", "text to image R@1", "RSUM"]),
}
"""Table -> the evaluation that it shows, and its figures."""


@dataclass(frozen=True)
class AblateConfig:
    """`bridgetower ablate`; the same command resumes with what is not done yet."""

    data: str = "data"
    """Folder that holds `shapes` and `shapes_heldout` (`bridgetower prep shapes out=data`)."""
    wide: str = "data_wide"
    """Folder with the same corpora of stretched images (`bridgetower prep shapes out=data_wide aspect=1.5`)."""
    runs: str = "runs/ablation"
    """Folder for the runs."""
    out: str | None = None
    """Where the tables are written, those of tasks after each task; null: docs/results.md, or docs/task_results.md."""
    tasks: bool = False
    """The other tasks instead, about the images of `prep shapes tasks=true simple=true`, drawn and prepared below `data`:
    pretrained as the demo but longer, with images and blind, and VQAv2 from random weights as well."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of the runs of each variant."""
    rerank: int = 16
    """Candidates of each query that are re-ranked by ITM."""
    overrides: list[str] = field(default_factory=list)
    """More overrides of every run, on top of `experiment=demo`: [steps=20]."""

    def __post_init__(self) -> None:
        at_least("rerank", self.rerank, 1)
        if not self.seeds:
            raise ConfigError("seeds=[]: give at least one")


def run(config: AblateConfig) -> int:
    """Train and evaluate every variant with every seed, one after the other, and write the tables."""
    return _tasks(config) if config.tasks else _losses(config)


def _tasks(config: AblateConfig) -> int:
    for command in ablate_tasks.preparations(config.data):
        _bridgetower(*command)
    pretrained = Path(config.runs) / "pretrained"
    keys = [*ablate_tasks.PRETRAINING, f"data.root={config.data}", f"run_dir={pretrained}"]
    _bridgetower("train", *keys, *config.overrides)
    folders: dict[str, dict[str, list[Path]]] = {}
    for task in ablate_tasks.TASKS:
        for name, overrides in ablate_tasks.rows(task).items():
            variant = [override.format(pretrained=pretrained) for override in overrides]
            for seed in config.seeds[:1] if "blind" in name else config.seeds:
                folder = Path(config.runs) / f"{task}_{name.replace(' ', '_').replace(',', '')}-{seed}"
                folders.setdefault(task, {}).setdefault(name, []).append(folder)
                keys = ablate_tasks.training(task, config.data, folder)
                _bridgetower("train", *keys, f"seed={seed}", *variant, *config.overrides)
                _bridgetower("eval", task, f"run_dir={folder}")
        _write(config.out or "docs/task_results.md", ablate_tasks.results(folders))
    return 0


def _write(path: str, page: str) -> None:
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, page)
    print_line(f"results: {out.resolve()}")


def _losses(config: AblateConfig) -> int:
    folders: dict[str, list[Path]] = {}
    for name, overrides in VARIANTS.items():
        for number, seed in enumerate(config.seeds):
            folder = Path(config.runs) / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
            folders.setdefault(name, []).append(folder)
            trained = folders["all three"][number]
            variant = [override.format(all_three=trained, wide=config.wide) for override in overrides]
            _bridgetower(
                "train", "experiment=demo", f"data.root={config.data}", f"run_dir={folder}", f"seed={seed}", *variant,
                *config.overrides,
            )  # fmt: skip
            done = read_config(folder)
            for command in dict.fromkeys(evaluation for evaluation, _ in COLUMNS.values()):
                rerank = config.rerank * bool(done.objective.itm) if command == "retrieval" else None
                if not (EVALUATIONS[command].lacks(done) or _evaluated(folder, command, rerank)):
                    more = [] if rerank is None else ["captions=1", f"rerank={rerank}"]
                    _bridgetower("eval", command, f"run_dir={folder}", *more)
    _write(config.out or "docs/results.md", results(config, folders))
    return 0


def _bridgetower(*arguments: str) -> None:
    print_line(f"$ bridgetower {' '.join(arguments)}")
    if code := run_job(*arguments):
        raise UserError(f"`bridgetower {' '.join(arguments)}` ended with code {code}; the same command resumes there")


def results(config: AblateConfig, folders: dict[str, list[Path]]) -> str:
    """The page, in Markdown."""
    first = read_config(folders["all three"][0])
    protocol = next(iter(read_evaluations(folders["all three"][0] / "eval.json").values()))["protocol"]
    device, _ = make_device(first.device)
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    work = {name: step_flops(read_config(runs[0])) for name, runs in folders.items()}
    shares = [(name, f"{flops / 1e9:.3f}", f"{flops / work['all three']:.2f}") for name, flops in work.items()]
    parts = [
        "# What each loss buys, and each way to train it\n",
        f"The demo's recipe ({text(first.steps)} steps of {first.global_batch} pairs, tiny model, {first.model.image_size} px), "
        f"with and without each loss, seeds {', '.join(map(str, config.seeds))}: mean and, where there are several seeds, "
        f"standard deviation. Measured on {code(protocol['corpus'])}, whose combinations of colour, shape and texture "
        f"training never shows. Retrieval, in percent: the first caption of each of {protocol['images']:,} images, among all; "
        f"re-ranked are the best {config.rerank} of each query. Wide images are stretched, in training and here: "
        "a crop loses what lies at their sides, squashing nothing.\n",
        f"Made by `bridgetower ablate` on {text(device.description)}; {text(installed)}.\n",
        "## Work\n",
        table(["", "GFLOP per pair, forward and backward", "of all three"], shares),
    ]
    for title, (evaluation, columns) in COLUMNS.items():
        found = {name: [_figures(folder, evaluation, title) for folder in runs] for name, runs in folders.items()}
        digits = 1 if evaluation == "retrieval" else 3
        rows = [
            (name, *(_mean([figures[column] for figures in runs], digits) for column in columns))
            for name, runs in found.items()
            if all(runs)
        ]
        header = [c.replace("image to text", "i2t").replace("text to image", "t2i") for c in columns]
        parts += [f"## {title}\n", table(["", *header], rows)]
    return "\n".join(parts)


def _evaluated(folder: Path, evaluation: str, rerank: int | None) -> bool:
    """Whether the newest checkpoint of a run has been evaluated, in retrieval with so many candidates re-ranked."""
    entry = _entry(folder, evaluation)
    ranked = "none" if not rerank else f"the best {rerank} of each query"
    return entry.get("step") == step_of(step_folders(folder)[-1]) and (
        rerank is None or entry["protocol"]["re-ranking"].startswith(ranked)
    )


def _entry(folder: Path, evaluation: str) -> dict[str, Any]:
    """What a run keeps of an evaluation; empty where it did not have it."""
    entries, title = read_evaluations(folder / "eval.json"), EVALUATIONS[evaluation].title
    return next((entry for key, entry in entries.items() if key.startswith(f"{title} on ")), {})


def _figures(folder: Path, evaluation: str, title: str) -> dict[str, float]:
    """The figures of an evaluation; empty where the run did not have it."""
    figures: dict[str, Any] = _entry(folder, evaluation).get("figures", {})
    if evaluation != "retrieval":
        return figures
    return next((values for method, values in figures.items() if ("ITM" in method) == ("ITM" in title)), {})


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
