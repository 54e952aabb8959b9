"""The commands that README, manuals, launchers and Kubernetes files print: each composes, and says where it starts."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bridgetower_train import compose
from bridgetower_train.cli import COMMANDS, load
from bridgetower_train.evaluation import EVALUATIONS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""CONTRIBUTING.md adds what its commands name; its own test runs them."""
PRETRAINING = ("ms_base_4m", "ms_large_4m", "gaudi_large_14m", "gaudi_large_14m_from_towers")


def lines(page: Path) -> Iterator[str]:
    """The commands of a page's blocks of shell, and those that its text names in full."""
    text = page.read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from (part for line in block.replace("\\\n", " ").splitlines() for part in line.split(" && "))
    yield from re.findall(r"`(bridgetower [^`\n]*=[^`\n]*)`", text)


def printed() -> list[tuple[str, list[str]]]:
    """(command, its words) of every command that is printed."""
    found = []
    for page in PAGES:
        for line in lines(page):
            words = shlex.split(line, comments=True)
            if any(word.startswith("launch/") for word in words):
                found.append(("train", words))
            programs = [n for n, word in enumerate(words) if word in ("bridgetower", "bridgetower_train")]
            if words[:2] == ["docker", "run"]:
                programs = [n for n, word in enumerate(words) if word.startswith("bridgetower:")]
            found += [(named(words[n + 1 :]), words[n + 1 :]) for n in programs]
    for file in ("pytorchjob", "mpijob"):
        found += re.findall(
            r"(?s)args: # (Hydra) overrides\n(.*?)env:", (ROOT / f"launch/kubernetes/{file}.yaml").read_text()
        )
        found[-1] = ("train", yaml.safe_load(found[-1][1]))
    return found


def named(words: list[str]) -> str:
    """The command that begins with these words."""
    if words[0] == "eval":
        return " ".join(words[:2]) if words[1] in EVALUATIONS else "eval"
    return next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)


@pytest.mark.parametrize(
    ("command", "words"), printed(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_printed_command_composes(command, words):
    overrides = [word for word in words if "=" in word and "=..." not in word and word[0] != "-"]
    if command == "train" and any("," in word and "seed=" in word for word in overrides):
        overrides = compose.sweep(overrides)[0]
    base = COMMANDS["eval" if command.startswith("eval ") else command].base
    schema, left_out = load(command)[1], any(word.endswith("...") for word in words)
    if left_out:
        compose.compose_node(schema, base, overrides)
        return
    config = compose.compose(schema, base, overrides)
    if base == "train":
        assert "???" not in compose.to_yaml(config)
        if any(word == f"experiment={name}" for word in overrides for name in PRETRAINING):
            assert config.init.named
