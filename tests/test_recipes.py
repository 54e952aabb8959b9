"""docs/recipes.md: its tables say what the experiments set."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bridgetower_train import compose
from bridgetower_train.config import TrainConfig
from bridgetower_train.training.checkpoints import fingerprint

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
WITHOUT_RESULT = (
    "run_dir", "log_every", "tensorboard", "data.root", "data.workers", "checkpoint.", "validation.", "engine.",
    "device.name", "device.execution",
)  # fmt: skip
"""Keys that change how a run is done, not what it learns."""


def tables() -> dict[str, dict[str, str]]:
    """Experiment -> key -> the cell of its value."""
    found: dict[str, dict[str, str]] = {}
    names: list[str] = []
    for line in PAGE.read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| ---"):
            continue
        key, *cells, published, _ = (cell.strip() for cell in line.strip().strip("|").split("|"))
        if key == "key":
            names = cells
            found |= {name: {} for name in names}
            continue
        assert published.startswith(("yes", "no", "Flickr30k: ")), f"{key}: {published}"
        for name, cell in zip(names, cells, strict=True):
            assert key not in found[name], f"{name}: {key} is there twice"
            found[name][key] = cell
    return found


def flat(*overrides: str) -> dict[str, Any]:
    """Key -> value of a composed configuration."""
    return fingerprint(compose.compose(TrainConfig, "train", list(overrides)), ("",))


def test_every_published_experiment_has_a_table():
    assert set(tables()) == set(compose.groups()["experiment"]) - {"demo", "emoji"}


@pytest.mark.parametrize("experiment", sorted(tables()))
def test_a_table_has_the_values_of_its_experiment(experiment):
    """A row named after a group, such as `data`, stands for all that the choice sets."""
    rows, composed = tables()[experiment], flat(f"experiment={experiment}")
    chosen = {key: cell for key, cell in rows.items() if key in compose.groups()}
    plain = flat(*(f"{group}={choice}" for group, choice in chosen.items()))
    for key, cell in rows.items():
        if key not in chosen:
            value = OmegaConf.create(f"value: {cell}").value
            assert composed[key] in (value, str(value)), f"{key}: {cell}, but {experiment} has {composed[key]}"
    changed = {key for key, value in composed.items() if plain.get(key, ...) != value}
    missing = {key for key in changed - set(rows) if not key.startswith(WITHOUT_RESULT)}
    assert not missing, f"{PAGE.name} does not say what {experiment} sets in {', '.join(sorted(missing))}"
