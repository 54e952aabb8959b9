"""Completion in bash, fish and zsh: Hydra's scripts, which ask for what can follow a line."""

import glob
import os
import re

from bridgetower_train import compose
from bridgetower_train.config import TrainConfig
from bridgetower_train.errors import ConfigError
from bridgetower_train.table import COMMANDS, command_of, load


def shell_completion(what: str) -> None:
    """Print the script of `install=SHELL` or `uninstall=SHELL`, or for `query=SHELL` what can follow the line in COMP_LINE.

    ConfigError for anything else.
    """
    shells = compose.completions(following)
    action, _, shell = what.partition("=")
    if action not in ("install", "uninstall", "query") or shell not in shells:
        raise ConfigError(
            f"--shell-completion {what}: must be install=, uninstall= or query= one of {', '.join(sorted(shells))}"
        )
    shells[shell](action)


def following(line: str) -> list[str]:
    """The words that can stand at the end of `line`, in the place of what is there of the last: commands, keys or values."""
    *before, word = re.split(r"\s+", line.lstrip())
    name = next((n for n in (" ".join(before[:2]), " ".join(before[:1])) if n in COMMANDS), None)
    if name is None:
        words = [n.split()[len(before) :] for n in COMMANDS if n.split()[: len(before)] == before]
        return sorted({rest[0] for rest in words if rest and rest[0].startswith(word)})
    command = command_of(name)
    schema = TrainConfig if name == "train" else load(name)[1]  # whose keys are known without importing torch
    groups = compose.groups() if command.base else {}
    switches = {
        key: ["true", "false"] for key, default, _ in compose.field_docs(schema) if default in ("True", "False")
    }
    key, equals, path = word.partition("=")
    if equals:
        found = [f"{key}={value}" for value in {**switches, **groups}.get(key, [])]
        return [choice for choice in found if choice.startswith(word)] or _files(key, path)
    keys = [*groups, *(key for key, _, _ in compose.field_docs(schema))]
    return [f"{key}=" for key in keys if key.startswith(word)]


def _files(key: str, path: str) -> list[str]:
    found = sorted(glob.glob(f"{glob.escape(path)}*"))
    return [f"{key}={name}{'/' * os.path.isdir(name)}" for name in found]
