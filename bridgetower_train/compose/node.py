"""From a base, groups and overrides to one frozen dataclass, or to a refusal in words of our own."""

import dataclasses
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from bridgetower_train.compose.keys import form, keys_below, type_of, wanted
from bridgetower_train.compose.overrides import (
    as_they_stand,
    fault,
    key_of,
    mapping_of,
    set_mapping,
    unquoted,
    value_of,
)
from bridgetower_train.errors import ConfigError, nearest


class UnknownOverrideError(ConfigError):
    """An override that gives no value, or one of a key that there is not."""

    def __init__(self, override: str, said: str) -> None:
        super().__init__(f"{override}: {said}")
        self.override = override
        self.said = said


class MissingKeysError(ConfigError):
    """Keys that have no default, and were not given."""

    def __init__(self, keys: list[str]) -> None:
        are = "is required" if len(keys) == 1 else "are required"
        named = " and ".join([", ".join(keys[:-1]), keys[-1]] if keys[1:] else keys)
        super().__init__(f"{named} {are}: set {' '.join(f'{key}=...' for key in keys)}")
        self.keys = keys


@dataclass(frozen=True)
class Request:
    """What is to be composed."""

    schema: type[Any]
    """The class of the configuration."""
    base: str | None
    """The YAML in `configs` that it starts from; None: the defaults of the class, and no groups."""
    overrides: tuple[str, ...] = ()
    folder: str | None = None
    """A folder with more choices of the groups."""

    def instead(self, wrong: str, *right: str) -> "Request":
        """The same with other overrides in the place of one."""
        at = self.overrides.index(wrong)
        return replace(self, overrides=(*self.overrides[:at], *right, *self.overrides[at + 1 :]))

    @property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its choices."""
        return groups(self.folder) if self.base else {}


def config_dir() -> Path:
    """The folder of the Hydra groups: inside an installed package, next to it in a checkout."""
    package = Path(__file__).parents[1]
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def groups(folder: str | None = None) -> dict[str, list[str]]:
    """Group -> its choices, with those that a `folder` adds."""
    known = sorted(d.name for d in config_dir().iterdir() if d.is_dir())
    places = [config_dir(), *([Path(folder)] if folder else [])]
    return {name: sorted({f.stem for place in places for f in (place / name).glob("*.yaml")}) for name in known}


def config_of(request: Request) -> Any:
    """The configuration, checked and frozen; ConfigError with the key, the given value and what is allowed."""
    node = node_of(request)
    try:
        missing = OmegaConf.missing_keys(node)
        if missing:
            order = [field.name for field in dataclasses.fields(request.schema)]
            raise MissingKeysError(sorted(missing, key=lambda key: order.index(key.split(".")[0])))
        return object_of(node)
    except OmegaConfBaseException as error:
        raise ConfigError(_refused(request, error)) from error


def object_of(node: DictConfig | ListConfig) -> Any:
    """The dataclass of a configuration in OmegaConf's form, which checks itself.

    ConfigError where a number is infinite or not one: no key takes them, and the bounds of most would let infinity pass.
    """

    def check(key: str, value: Any) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be a finite number")
        named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, inner in named:
            check(f"{key}.{name}" if key else str(name), inner)

    check("", OmegaConf.to_container(node))
    return OmegaConf.to_object(node)


def node_of(request: Request) -> DictConfig:
    """The configuration in OmegaConf's form, before the checks; required values may be missing."""
    schema, base = request.schema, request.base
    for override in request.overrides:
        _check(request, override)
    mappings = [o for o in request.overrides if mapping_of(schema, o) is not None]
    plain = as_they_stand(schema, [o.lstrip("+") for o in request.overrides if o not in mappings], sweep=False)
    if request.folder:
        plain.append(f"hydra.searchpath=['{Path(request.folder).resolve()}']")
    ConfigStore.instance().store("schema", unlocked(OmegaConf.structured(schema)))
    # Without a base there are no groups: `device=cpu` is then a key's value, not a choice of `configs/device`.
    start = (
        initialize_config_dir(str(config_dir()), version_base="1.3") if base else initialize(None, version_base="1.3")
    )
    with start:
        try:
            node = hydra_compose(base or "schema", overrides=plain)
            for override in mappings:
                set_mapping(node, schema, override)
            return node
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_refused(request, error)) from error


def _check(request: Request, override: str) -> None:
    """What is not even a value for a key or a group is refused before Hydra sees it."""
    schema, key, value = request.schema, key_of(override), value_of(override)
    if re.match(r"[+~]*hydra\b", override):
        raise ConfigError(f"{override}: no such key; what Hydra itself does cannot be changed; --help lists the keys")
    if "=" not in override or not key:
        known = type_of(schema, key) and not keys_below(schema, key)
        raise UnknownOverrideError(override, f"is not an override; write {f'{key}=...' if known else 'key=value'}")
    if override.startswith("~"):
        raise ConfigError(f"{override}: a key cannot be taken away; write {form(schema, key)}")
    if mapping_of(schema, override) is not None:
        return
    if key in request.groups and not value.startswith("{"):
        _check_choice(request, override)
    elif type_of(schema, key) is None:
        raise UnknownOverrideError(override, "no such key")
    elif keys_below(schema, key) and not value.startswith("{"):
        raise UnknownOverrideError(override, f"is a group of keys; write {keys_below(schema, key)[0]}=...")


def _check_choice(request: Request, override: str) -> None:
    key, choice = key_of(override), unquoted(value_of(override))
    choices = request.groups[key]
    if choice in choices or (key == "experiment" and choice == "null"):
        return
    if "," in choice:
        raise ConfigError(f"{override}: has several values; give one, or add --multirun for one job each")
    raise ConfigError(f"{key}={choice}: must be one of {', '.join(choices)}{nearest(choice, choices)}")


def _refused(request: Request, error: Exception) -> str:
    """One message with the key, what was given and what it takes, without words of Hydra or OmegaConf."""
    schema = request.schema
    for override in request.overrides:
        key, given = key_of(override), value_of(override)
        if mapping_of(schema, override) is not None or key in request.groups:
            continue
        (quoted,) = as_they_stand(schema, [override.lstrip("+")], sweep=False)
        match fault(quoted):
            case "several":
                one = f"write {form(schema, key, given)}" if wanted(schema, key).startswith("a list") else "give one"
                return f"{override}: has several values; {one}, or add --multirun for one job each"
            case "unreadable":
                return f"{override}: {_must_be(schema, key, given)}"
    cause = error.__cause__ if getattr(error.__cause__, "full_key", None) else error
    key = re.sub(r"\[\d+\]$", "", str(getattr(cause, "full_key", None) or ""))  # an item of a list
    override = next((o for o in reversed(request.overrides) if f"{key}.".startswith(f"{key_of(o)}.")), "")
    given = value_of(override) if key_of(override) == key else ""
    named = f"{key}={given}:" if given else f"{override}: {key}" if override else f"{key}:"
    if isinstance(cause, InterpolationResolutionError | GrammarParseError):
        return rf"{named} there is nothing to fill in for what begins with ${{; write \${{ where no value is to be filled in"
    if not key:
        return "the overrides do not fit together; give fewer of them, or see --cfg job"
    return f"{named} {_must_be(schema, key, given)}"


def _must_be(schema: type[Any], key: str, given: str) -> str:
    return f"must be {wanted(schema, key)}; write {form(schema, key, given)}"


def value_in(node: DictConfig, key: str) -> str:
    """The value of a key, as text; `required` where there is none."""
    try:
        value = OmegaConf.select(node, key)
    except OmegaConfBaseException:
        value = None  # it is made of what is required
    return "required" if value is None and OmegaConf.is_missing(node, key) else str(value)


def unlocked(node: DictConfig) -> DictConfig:
    """Make frozen dataclasses writable and dicts extensible while composing, which OmegaConf and Hydra forbid."""
    OmegaConf.set_readonly(node, None)
    if OmegaConf.get_type(node) is dict:
        OmegaConf.set_struct(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            unlocked(child)
    return node
