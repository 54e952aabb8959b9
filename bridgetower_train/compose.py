"""From Hydra's groups and overrides to one frozen dataclass. Hydra and OmegaConf are used in this file only.

Hydra's grammar takes few characters without quotes, and quotes are the shell's. So it sees texts in quotes (`as_they_stand`), and
mappings, whose names it cannot quote, not at all (`_set_mapping`).
"""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from bridgetower_train.display import public
from bridgetower_train.errors import ConfigError, FileError, nearest
from bridgetower_train.foreign import MAX_YAML, parse_yaml, read_bytes

Config = TypeVar("Config")

RENAMED = {"pictures": "images"}
"""Key of an earlier version -> its name."""
_TEXTS, _LISTS_OF_TEXTS = (str, str | None), (list[str], list[str] | None)
_NO_TEXTS = ("true", "false", "inf", "nan")
_FORMS = {bool: "true", int: "1", float: "0.1", list: "[...]", dict: "{NAME: VALUE}"}
_QUOTED = r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"'
_ITEM = re.compile(rf"\s*(?:{_QUOTED})\s*(?=,|\Z)|(?:\[[^\[\]]*\]|\{{[^{{}}]*\}}|\([^()]*\)|[^,])+")
"""A text in quotes, or one in which commas stand in brackets only."""


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
        raise ConfigError(_explain(error, schema, base)) from error
    except dataclasses.FrozenInstanceError as error:
        raise ConfigError(f"{error}: it is no key, and + adds none; --help lists them") from error
    assert isinstance(config, schema)
    return config


def compose_node(schema: type[Any], base: str | None, overrides: list[str]) -> DictConfig:
    """The composed configuration in OmegaConf's form, before the checks."""
    for override in overrides:
        if override.startswith("="):
            raise ConfigError(f"{override}: is not an override; write key=value")
        if re.match(r"[+~]*hydra\b", override):
            raise ConfigError(
                f"{override}: no such key; what Hydra itself does cannot be changed; --help lists the keys"
            )
    plain: list[str] = []
    mappings: list[str] = []
    for override in overrides:
        (plain if _mapping_of(schema, override) is None else mappings).append(override)
    plain = as_they_stand(schema, plain, sweep=False)
    ConfigStore.instance().store("schema", _unlocked(OmegaConf.structured(schema)))
    # Without a base there are no groups: `device=cpu` is then a key's value, not a choice of `configs/device`.
    folder = str(config_dir())
    with initialize_config_dir(folder, version_base="1.3") if base else initialize(None, version_base="1.3"):
        try:
            node = hydra_compose(base or "schema", overrides=plain)
            for override in mappings:
                _set_mapping(node, schema, override)
            return node
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group set to null
            raise ConfigError(_explain(error, schema, base)) from error


def as_they_stand(schema: type[Any], overrides: list[str], sweep: bool = True) -> list[str]:
    """The overrides as Hydra understands them: texts, and those in lists, in quotes, unless they are.

    Texts are the values of keys of the type `str`, except null. `sweep`: of several texts, separated by commas, each is one.
    """
    return [_quoted(schema, override, sweep) for override in overrides]


def _quoted(schema: type[Any], override: str, sweep: bool) -> str:
    key, equals, value = (part.strip() for part in override.partition("="))
    kind = _type_of(schema, key.lstrip("+"))
    items = _ITEM.findall(value)
    if not equals or kind not in _TEXTS + _LISTS_OF_TEXTS:
        return override
    if kind in _LISTS_OF_TEXTS:
        if len(items) != 1 or not (value.startswith("[") and value.endswith("]")):
            return override
        return f"{key}=[{','.join(_quote(item) for item in _ITEM.findall(value[1:-1]))}]"
    if sweep and re.fullmatch(r"(choice|range|glob|sort|shuffle|tag)\(.*\)", value):
        return override
    return f"{key}={','.join(_quote(item) for item in items) if sweep else _quote(value)}"


def _quote(text: str) -> str:
    text = text.strip()
    if text.lower() in ("", "null", "???") or re.fullmatch(_QUOTED, text):
        return text
    if re.fullmatch(r"[A-Za-z/][\w/.-]*", text, re.ASCII) and text.lower() not in _NO_TEXTS:
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)\Z", r"\1\1", text))
    return f"'{escaped}'"


def _type_of(schema: type[Any], key: str) -> Any:
    """The type of a field by its full key; None where there is no such field."""
    found: Any = schema
    for name in key.split("."):
        if get_origin(found) is dict:
            found = get_args(found)[1]
        else:
            found = get_type_hints(found).get(name) if dataclasses.is_dataclass(found) else None
    return found


def _mapping_of(schema: type[Any], override: str) -> tuple[str, str] | None:
    """(key, "") of an override that gives a whole mapping as {name: value}, (key, name) of one that gives a name in it."""
    key, equals, value = (part.strip() for part in override.partition("="))
    parts = key.lstrip("+").split(".")
    for end in range(1, len(parts) + 1) if equals and not key.startswith("~") else ():
        if get_origin(_type_of(schema, ".".join(parts[:end]))) is dict:
            name = ".".join(parts[end:])
            return (".".join(parts[:end]), name) if name or value.startswith("{") else None
    return None


def _set_mapping(node: DictConfig, schema: type[Any], override: str) -> None:
    """Set a mapping, which replaces the one that is there unless `+` adds it, or a name in it."""
    key, name = _mapping_of(schema, override) or ("", "")
    given = override.partition("=")[2].strip()
    if name:
        found = {name: _unquoted(given)}
    else:
        pairs = [item.partition(":") for item in _ITEM.findall(given[1:-1]) if item.strip()]
        if not given.endswith("}") or not all(colon for _, colon, _ in pairs):
            raise ConfigError(f"{override}: cannot be read; write {_form(schema, key)}")
        found = {_unquoted(new): _unquoted(value) for new, _, value in pairs}
    mapping = OmegaConf.select(node, key)
    with flag_override(mapping, ["struct", "readonly"], [False, False]):
        for old in [] if name or override.startswith("+") else list(mapping):
            del mapping[old]
        for new, value in found.items():
            mapping[new] = value


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if re.fullmatch(_QUOTED, text) else text


def _form(schema: type[Any], key: str) -> str:
    """How to write a key and its value."""
    kind = _type_of(schema, key)
    if isinstance(kind, UnionType):
        kind = next(found for found in get_args(kind) if found is not NoneType)
    form = _FORMS.get(get_origin(kind) or kind, "VALUE")
    return f"'{key}={form}'" if form.startswith(("[", "{")) else f"{key}={form}"


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
    known = [name for name, _, _ in field_docs(schema)]
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    key = getattr(cause, "full_key", None)
    if isinstance(error, OverrideParseException):
        key, equals, _ = error.override.partition("=")
        key = key.lstrip("+~").strip()
        if not equals or not key:
            return f"{error.override}: is not an override; write key=value"
        if key in known:
            return f"{error.override}: cannot be read; write {_form(schema, key)}"
    elif (several := re.match(r"Ambiguous value for argument '(.*)'$", _first_line(error))) is not None:
        key, _, values = several[1].partition("=")
        one = f"write '{key}=[{values}]'" if get_origin(_type_of(schema, key)) is list else "give one"
        return f"{several[1]}: has several values; {one}, or add --multirun for one job each"
    if not key:
        return _first_line(error)
    if isinstance(cause, InterpolationResolutionError | GrammarParseError):
        return rf"{key}: {_first_line(cause)}; write \${{ where no value is to be filled in"
    if key in known or any(name.startswith(f"{key}.") for name in known) or _mapping_of(schema, f"{key}=1"):
        return f"{key}: {_first_line(cause or error).rstrip('.')}; write {_form(schema, key)}"
    if RENAMED.get(key) in known:
        return f"{key}: is now called {RENAMED[key]}; write {RENAMED[key]}=..."
    return f"{key}: no such key{nearest(key, known + list(available))}; --help lists them"
