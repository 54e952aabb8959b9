"""A configuration as a run folder keeps it."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bridgetower_train.compose.keys import type_of, wanted
from bridgetower_train.compose.node import object_of, unlocked
from bridgetower_train.display import public
from bridgetower_train.errors import ConfigError, FileError
from bridgetower_train.foreign import MAX_YAML, parse_yaml, read_bytes

Config = TypeVar("Config")


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, as in a run folder's `config.yaml`: without secrets."""
    return OmegaConf.to_yaml(OmegaConf.create(public(dataclasses.asdict(config))))


def from_yaml(schema: type[Config], path: Path) -> Config:
    """Read a `config.yaml` written with `to_yaml`; ConfigError for any other file.

    It is data, perhaps of others: nothing in it is resolved.
    """
    try:
        given = OmegaConf.create(_literal(parse_yaml(read_bytes(path, MAX_YAML), str(path))))
        config = object_of(OmegaConf.merge(unlocked(OmegaConf.structured(schema)), given))
    except FileError as error:
        raise ConfigError(str(error)) from None
    except (OmegaConfBaseException, OSError, ValueError, TypeError, ArithmeticError) as error:
        reason = _reason(schema, error)
        raise ConfigError(f"{path}: is not the configuration of a run: {reason}; restore it") from None
    assert isinstance(config, schema)
    return config


def _reason(schema: type[Any], error: Exception) -> str:
    key = getattr(error, "full_key", None)
    if isinstance(error, OmegaConfBaseException):
        if not key:
            return "it does not consist of the keys of one"
        return f"{key}: must be {wanted(schema, key)}" if type_of(schema, key) else f"{key}: no such key"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _literal(tree: Any) -> Any:
    """The same tree, in which OmegaConf finds nothing to interpolate."""
    if isinstance(tree, dict):
        return {key: _literal(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_literal(value) for value in tree]
    return tree.replace("${", r"\${") if isinstance(tree, str) else tree
