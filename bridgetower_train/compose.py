"""From Hydra's groups and overrides to one frozen dataclass. Hydra and OmegaConf are used in this file only."""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bridgetower_train.display import public
from bridgetower_train.errors import ConfigError, FileError, nearest
from bridgetower_train.foreign import MAX_YAML, parse_yaml, read_bytes

Config = TypeVar("Config")

RENAMED = {"pictures": "images"}
"""Key of an earlier version -> its name."""


def config_dir() -> Path:
    """The folder of the Hydra groups: inside an installed package, next to it in a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def groups() -> dict[str, list[str]]:
    """Group -> its choices."""
    return {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in sorted(config_dir().iterdir()) if d.is_dir()}


def compose(schema: type[Config], base: str | None, overrides: list[str]) -> Config:
    """Compose `configs/<base>.yaml` (or the defaults of `schema`), apply `overrides`, check, and freeze.

    Raises ConfigError with the key, the given value, what is allowed and the nearest match.
    """
    node = compose_node(schema, base, overrides)
    try:
        missing = sorted(OmegaConf.missing_keys(node))
        if missing:
            raise ConfigError(f"{missing[0]} is required: set {missing[0]}=...")
        config = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    except dataclasses.FrozenInstanceError as error:
        raise ConfigError(f"{error}: it is no key, and + adds none; --help lists them") from error
    assert isinstance(config, schema)
    return config


def compose_node(schema: type[Any], base: str | None, overrides: list[str]) -> DictConfig:
    """The composed configuration in OmegaConf's form, before the checks."""
    for override in overrides:
        if re.match(r"[+~]*hydra\b", override):
            raise ConfigError(
                f"{override}: no such key; what Hydra itself does cannot be changed; --help lists the keys"
            )
    overrides = as_they_stand(schema, overrides)
    ConfigStore.instance().store("schema", _unlocked(OmegaConf.structured(schema)))
    # Without a base there are no groups: `device=cpu` is then a key's value, not a choice of `configs/device`.
    folder = str(config_dir())
    with initialize_config_dir(folder, version_base="1.3") if base else initialize(None, version_base="1.3"):
        try:
            return hydra_compose(base or "schema", overrides=overrides)
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group set to null
            raise ConfigError(_explain(error, schema, base)) from error


def as_they_stand(schema: type[Any], overrides: list[str]) -> list[str]:
    """The overrides, with quotes around what Hydra's grammar does not take for text, where the key's value is text.

    Such are paths and rules with blanks, braces, brackets, `=` or `>`.
    """
    return [_quoted(schema, override) for override in overrides]


def _quoted(schema: type[Any], override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals or _type_of(schema, key) not in (str, str | None):
        return override
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
        if parsed.is_sweep_override() or not isinstance(parsed.value(), dict | list):
            return override
    except HydraException:
        pass
    if value[:1] in "'\"" and value[:1] == value[-1:]:
        return override
    escaped = re.sub(r"(\\*)(')", r"\1\1\\\2", re.sub(r"(\\+)\Z", r"\1\1", value))
    return f"{key}='{escaped}'"


def _type_of(schema: type[Any], key: str) -> Any:
    """The type of a field by its full key; None where there is no such field."""
    found: Any = schema
    for name in key.split("."):
        if not dataclasses.is_dataclass(found):
            return None
        found = get_type_hints(found).get(name)
    return found


def composed_yaml(schema: type[Any], base: str | None, overrides: list[str]) -> str:
    """The composed configuration as YAML, before the checks; required values may be missing."""
    return OmegaConf.to_yaml(compose_node(schema, base, overrides))


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, as in a run folder's `config.yaml`: without secrets."""
    return OmegaConf.to_yaml(OmegaConf.create(public(dataclasses.asdict(config))))


def from_yaml(schema: type[Config], path: Path) -> Config:
    """Read a `config.yaml` written with `to_yaml`; ConfigError for any other file.

    It is data, perhaps of others: nothing in it is resolved.
    """
    try:
        given = OmegaConf.create(_literal(parse_yaml(read_bytes(path, MAX_YAML), str(path))))
        config = OmegaConf.to_object(OmegaConf.merge(_unlocked(OmegaConf.structured(schema)), given))
    except FileError as error:
        raise ConfigError(str(error)) from None
    except (OmegaConfBaseException, OSError, ValueError, TypeError, ArithmeticError) as error:
        key = getattr(error, "full_key", None)
        reason = f"{key}: {_first_line(error)}" if key else _first_line(error)
        raise ConfigError(f"{path}: is not the configuration of a run: {reason}; restore it") from None
    assert isinstance(config, schema)
    return config


def _literal(tree: Any) -> Any:
    """The same tree, in which OmegaConf finds nothing to interpolate."""
    if isinstance(tree, dict):
        return {key: _literal(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_literal(value) for value in tree]
    return tree.replace("${", r"\${") if isinstance(tree, str) else tree


def sweep(overrides: list[str]) -> list[list[str]]:
    """The jobs of a multirun: every combination of the values that overrides such as `seed=0,1` or `range(3)` list."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(_first_line(error)) from error
    choices = [
        [f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in parsed
    ]
    return [list(job) for job in itertools.product(*choices)]


def field_docs(schema: type[Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, documentation) of every field of a configuration, nested ones with their full key."""
    documents = {}
    for cls in reversed(schema.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for item, after in itertools.pairwise(tree.body):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(after, ast.Expr):
                documents[item.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    rows = []
    default = schema()
    for field in dataclasses.fields(schema):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            rows += field_docs(type(value), f"{prefix}{field.name}.")
        else:
            shown = "required" if value == "???" else str(value)
            rows.append((prefix + field.name, shown, documents.get(field.name, "")))
    return rows


def _unlocked(node: DictConfig) -> DictConfig:
    """Make frozen dataclasses writable and dicts extensible while composing, which OmegaConf and Hydra forbid."""
    OmegaConf.set_readonly(node, None)
    if OmegaConf.get_type(node) is dict:
        OmegaConf.set_struct(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            _unlocked(child)
    return node


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _explain(error: Exception, schema: type[Any], base: str | None) -> str:
    """One message with the key, what is allowed and the nearest match."""
    available = groups() if base else {}
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: must be one of {', '.join(sorted(error.options))}{nearest(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not an override; write key=value"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    key = getattr(cause, "full_key", None)
    if not key:
        return _first_line(error)
    known = [name for name, _, _ in field_docs(schema)]
    if key in known or any(name.startswith(f"{key}.") for name in known):
        return f"{key}: {_first_line(cause or error)}"
    if RENAMED.get(key) in known:
        return f"{key}: is now called {RENAMED[key]}; write {RENAMED[key]}=..."
    return f"{key}: no such key{nearest(key, known + list(available))}; --help lists them"
