"""The commands that README, manuals, launchers and Kubernetes files print: each composes, and says where it starts."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from bridgetower_train import compose
from bridgetower_train.cli import load

ROOT = Path(__file__).parents[1]
ON_RUNS = ("train", "view", "doctor", "plan", "rehearse")
PRETRAINING = ("ms_base_4m", "ms_large_4m", "gaudi_large_14m", "gaudi_large_14m_from_towers")


def printed() -> list[tuple[str, list[str]]]:
    """(command, overrides) of every line of shell that starts a run, or looks at one."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if any(word.startswith("launch/") for word in words):
                    found.append(("train", words))
                named = next((n for n, word in enumerate(words) if word in ON_RUNS), None)
                if named is not None and ({"bridgetower", "bridgetower_train"} & {*words} or words[0] == "docker"):
                    found.append((words[named], words[named + 1 :]))
    for file in ("pytorchjob", "mpijob"):
        found += re.findall(
            r"(?s)args: # (Hydra) overrides\n(.*?)env:", (ROOT / f"launch/kubernetes/{file}.yaml").read_text()
        )
        found[-1] = ("train", yaml.safe_load(found[-1][1]))
    return [(command, [w for w in words if "=" in w and "=..." not in w and w[0] != "-"]) for command, words in found]


@pytest.mark.parametrize(
    ("command", "overrides"), printed(), ids=lambda value: str(value) if isinstance(value, str) else " ".join(value)
)
def test_a_printed_command_composes(command, overrides):
    if command == "train" and any("," in word and "seed=" in word for word in overrides):
        overrides = compose.sweep(overrides)[0]
    config = compose.compose(load(command)[1], "train", overrides)
    assert "???" not in compose.to_yaml(config)
    if any(word == f"experiment={name}" for word in overrides for name in PRETRAINING):
        assert config.init.named
