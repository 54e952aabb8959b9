"""Corpora of all tasks, and a run on each."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bridgetower_train.cli import main
from tests.tasks.classification.corpora import several, write, write_all
from tests.tiny import TINY

FAST = [
    "optim.lr_fusion=1e-3",
    "optim.lr_heads=1e-3",
    "optim.schedule=constant",
    "optim.warmup=0",
    "checkpoint.every=3",
]


@pytest.fixture(scope="session")
def tasks_root(tmp_path_factory) -> Path:
    """A root with TASK_train and TASK_val of each task, the same of `several`, and a tokenizer. Do not write to it."""
    root = write_all(tmp_path_factory.mktemp("tasks"))
    for split, records in (("train", 24), ("val", 12)):
        write(root, f"several_{split}", "classes", records, split, make=several, several=True)
    return root


@pytest.fixture(scope="session")
def options(tasks_root) -> Callable[..., list[str]]:
    """The keys of a run of a task: `options("vqav2")`; `corpora` are the first part of other corpora's names."""

    def options(task: str, corpora: str | None = None) -> list[str]:
        name = corpora or task
        return [
            *TINY, *FAST, f"task={task}", f"data.root={tasks_root}", f"tokenizer={tasks_root}/tokenizer.json",
            f"data.corpora={{{name}_train: 1}}", f"data.validation={name}_val", "validation.every=6", "steps=6",
        ]  # fmt: skip

    return options


@pytest.fixture(scope="session")
def run_of(options, tmp_path_factory) -> Callable[..., Path]:
    """`run_of("vqav2")`: the folder of a run of six steps, trained once in a session. Do not write to it."""
    folders: dict[tuple[str, ...], Path] = {}

    def run_of(task: str, *overrides: str, corpora: str | None = None) -> Path:
        key = (task, corpora or "", *overrides)
        if key not in folders:
            folder = tmp_path_factory.mktemp(task) / "run"
            assert main(["train", *options(task, corpora), *overrides, f"run_dir={folder}"]) == 0
            folders[key] = folder
        return folders[key]

    return run_of
