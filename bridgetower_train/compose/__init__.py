"""From Hydra's groups and overrides to one frozen dataclass. Hydra and OmegaConf are used in this package only.

`keys` knows what there is, `overrides` how it is written, `node` composes it or refuses, `suggestions` says what was meant,
`stored` is what a run folder keeps, and `shells` has what completes a line.

May import nothing.
"""

from collections.abc import Callable
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from bridgetower_train.compose.keys import field_docs
from bridgetower_train.compose.node import (
    MissingKeysError,
    Request,
    UnknownOverrideError,
    config_of,
    groups,
    node_of,
    value_in,
)
from bridgetower_train.compose.overrides import as_they_stand, sweep
from bridgetower_train.compose.shells import completions
from bridgetower_train.compose.stored import from_yaml, to_yaml
from bridgetower_train.compose.suggestions import answer
from bridgetower_train.compose.suggestions import of_flag as _of_flag
from bridgetower_train.errors import ConfigError

__all__ = [
    "MissingKeysError",
    "as_they_stand",
    "completions",
    "compose",
    "compose_node",
    "composed_yaml",
    "field_docs",
    "from_yaml",
    "groups",
    "of_flag",
    "sweep",
    "to_yaml",
    "values",
]

Config = TypeVar("Config")
Made = TypeVar("Made")


def compose(schema: type[Config], base: str | None, overrides: list[str], folder: str | None = None) -> Config:
    """Compose `configs/<base>.yaml` (or the defaults of `schema`), apply `overrides`, check, and freeze.

    `folder` has more choices of the groups. Raises ConfigError with the key, the given value, what is allowed and what was meant.
    """
    config = _answered(config_of, Request(schema, base, tuple(overrides), folder))
    assert isinstance(config, schema)
    return config


def compose_node(schema: type[Config], base: str | None, overrides: list[str], folder: str | None = None) -> DictConfig:
    """The composed configuration in OmegaConf's form, before the checks; required values may be missing."""
    return _answered(node_of, Request(schema, base, tuple(overrides), folder))


def _answered(make: Callable[[Request], Made], request: Request) -> Made:
    """What is made of a request, or the error that says what was meant."""
    try:
        return make(request)
    except UnknownOverrideError as error:
        raise ConfigError(answer(request, error)) from None


def composed_yaml(schema: type[Config], base: str | None, overrides: list[str], folder: str | None = None) -> str:
    """The composed configuration as YAML, before the checks."""
    return OmegaConf.to_yaml(compose_node(schema, base, overrides, folder))


def values(schema: type[Config], base: str | None, overrides: list[str], folder: str | None = None) -> dict[str, str]:
    """Key -> its value in the composed configuration, as text; `required` where there is none."""
    node = compose_node(schema, base, overrides, folder)
    return {key: value_in(node, key) for key, _, _ in field_docs(schema)}


def of_flag(
    schema: type[Config], base: str | None, overrides: list[str], folder: str | None, flag: str, value: str | None
) -> str | None:
    """What to write for `--flag value`; None where it stands for no key."""
    return _of_flag(Request(schema, base, tuple(overrides), folder), flag, value)
