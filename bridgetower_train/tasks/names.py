"""What the labels are called, by number: a file of each corpus, which a run and its export keep for themselves."""

from pathlib import Path
from typing import Any

from bridgetower_train.config import TrainConfig
from bridgetower_train.data.manifest import Manifest, are_distinct
from bridgetower_train.data.roots import plain_root, read_manifest, read_small
from bridgetower_train.errors import ConfigError, FileError, UserError
from bridgetower_train.foreign import inside, parse_json, read_json

MAX_BYTES = 16 << 20
"""Of a file of names; the 3,129 answers of VQAv2 take 40 kB."""


def names_of_corpora(config: TrainConfig, file: str) -> list[str]:
    """The names in the `file` of the corpora that train; ConfigError where none has one, or two differ."""
    found: dict[str, list[str]] = {}
    root = config.data.root
    for corpus in config.data.trained:
        try:
            content = read_small(root, f"{corpus}/{file}", MAX_BYTES)
        except (OSError, UserError):
            continue
        found[corpus] = _checked(parse_json(content, list[str], f"{plain_root(root)}/{corpus}/{file}"), corpus)
    if not found:
        named = ", ".join(config.data.trained)
        raise ConfigError(
            f"data.corpora: none of {named} has {file}, which names the labels of task={config.task}; prepare them with "
            f"`bridgetower prep`"
        )
    (first, names), *others = found.items()
    for corpus, theirs in others:
        if theirs != names:
            raise ConfigError(
                f"data.corpora: {first} and {corpus} have different labels in {file}; prepare them with the same"
            )
    return names


def names_of_corpus(root: str, corpus: str, file: str) -> list[str]:
    """The names in the `file` of a corpus below a root, local or remote; FileError where it is missing, or no such list."""
    path = f"{plain_root(root)}/{corpus}/{file}"
    try:
        content = read_small(root, f"{corpus}/{file}", MAX_BYTES)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}; it names the labels of the corpus: prepare it again") from None
    return _checked(parse_json(content, list[str], path), corpus)


def names_in(folder: Path, file: str) -> list[str]:
    """The names that a run or its export has kept; FileError where the file is missing, or no such list."""
    try:
        return _checked(read_json(inside(folder, file), list[str], MAX_BYTES), str(folder))
    except OSError as error:
        raise FileError(f"{folder / file}: {error.strerror}; it names the labels of the model: restore it") from None


def noted(config: TrainConfig) -> dict[str, Any]:
    """What the manifests of the corpora say under `extra`, all together.

    ConfigError for a corpus that was prepared for another task. One that cannot be read from here counts as right.
    """
    together: dict[str, Any] = {}
    held_out = [config.data.validation] if config.data.validation else []
    for corpus in [*config.data.trained, *held_out]:
        manifest: Manifest | None = read_manifest(config.data.root, corpus)
        extra = manifest.extra if manifest else {"task": config.task}
        if (task := extra.get("task")) != config.task:
            raise ConfigError(
                f"data.corpora.{corpus}: was prepared for {f'task={task}' if task else 'captions'}, not for task={config.task}; "
                "name another corpus, or change task"
            )
        together = extra | together
    return together


def _checked(names: list[str], where: str) -> list[str]:
    if not are_distinct(names):
        raise FileError(f"{where}: its labels are none, or have a name twice; prepare the corpus again")
    return names
