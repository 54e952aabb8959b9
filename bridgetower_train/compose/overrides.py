"""The grammar of overrides.

Hydra's takes few characters without quotes, and quotes are the shell's. So it sees texts in quotes (`as_they_stand`), and
mappings, whose names it cannot quote, not at all (`set_mapping`).
"""

import itertools
import re
from typing import Any, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override

from bridgetower_train.compose.keys import form, type_of
from bridgetower_train.errors import ConfigError

_TEXTS, _LISTS_OF_TEXTS = (str, str | None), (list[str], list[str] | None)
_NO_TEXTS = ("true", "false", "inf", "nan")
_QUOTED = r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"'
_ITEM = re.compile(rf"\s*(?:{_QUOTED})\s*(?=,|\Z)|(?:\[[^\[\]]*\]|\{{[^{{}}]*\}}|\([^()]*\)|[^,])+")
"""A text in quotes, or one in which commas stand in brackets only."""


def key_of(override: str) -> str:
    """The key that an override gives, or the whole of it where it gives none."""
    return override.partition("=")[0].lstrip("+~").strip()


def value_of(override: str) -> str:
    """What stands behind the first `=`."""
    return override.partition("=")[2].strip()


def as_they_stand(schema: type[Any], overrides: list[str], sweep: bool = True) -> list[str]:
    """The overrides as Hydra understands them: texts, and those in lists, in quotes, unless they are.

    Texts are the values of keys of the type `str`, except null. `sweep`: of several texts, separated by commas, each is one.
    """
    return [_quoted(schema, override, sweep) for override in overrides]


def _quoted(schema: type[Any], override: str, sweep: bool) -> str:
    key, equals, value = (part.strip() for part in override.partition("="))
    kind = type_of(schema, key.lstrip("+"))
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


def unquoted(text: str) -> str:
    """A text without the quotes around it."""
    text = text.strip()
    return text[1:-1] if re.fullmatch(_QUOTED, text) else text


def mapping_of(schema: type[Any], override: str) -> tuple[str, str] | None:
    """(key, "") of an override that gives a whole mapping as {name: value}, (key, name) of one that gives a name in it."""
    key, equals, value = (part.strip() for part in override.partition("="))
    parts = key.lstrip("+").split(".")
    for end in range(1, len(parts) + 1) if equals and not key.startswith("~") else ():
        if get_origin(type_of(schema, ".".join(parts[:end]))) is dict:
            name = ".".join(parts[end:])
            return (".".join(parts[:end]), name) if name or value.startswith("{") else None
    return None


def set_mapping(node: DictConfig, schema: type[Any], override: str) -> None:
    """Set a mapping, which replaces the one that is there unless `+` adds it, or a name in it."""
    key, name = mapping_of(schema, override) or ("", "")
    given = value_of(override)
    if name:
        found = {name: unquoted(given)}
    else:
        pairs = [item.partition(":") for item in _ITEM.findall(given[1:-1]) if item.strip()]
        if not given.endswith("}") or not all(colon for _, colon, _ in pairs):
            raise ConfigError(f"{override}: cannot be read; write {form(schema, key)}")
        found = {unquoted(new): unquoted(value) for new, _, value in pairs}
    mapping = OmegaConf.select(node, key)
    with flag_override(mapping, ["struct", "readonly"], [False, False]):
        for old in [] if name or override.startswith("+") else list(mapping):
            del mapping[old]
        for new, value in found.items():
            mapping[new] = value


def fault(override: str) -> str:
    """`unreadable`, `several` or nothing: what Hydra's grammar has against an override."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return "unreadable"
    return "several" if parsed.is_sweep_override() else ""


def sweep(overrides: list[str]) -> list[list[str]]:
    """The jobs of a multirun: every combination of the values that overrides such as `seed=0,1` or `range(3)` list."""
    choices = []
    for override in overrides:
        if fault(override) == "unreadable":
            raise ConfigError(f"{override}: cannot be read; write key=value, or key=value,value for one job each")
        o = OverridesParser.create().parse_override(override)
        swept = o.is_sweep_override()
        choices.append([f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()] if swept else [override])
    return [list(job) for job in itertools.product(*choices)]
