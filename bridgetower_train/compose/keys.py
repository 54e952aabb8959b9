"""The keys of a configuration: their types, what they take in words, and their documentation."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "names with values",
}  # fmt: skip
_FORMS = {bool: "true", int: "1", float: "0.1", dict: "{NAME: VALUE}"}


def type_of(schema: type[Any], key: str) -> Any:
    """The type of a field by its full key; None where there is no such field."""
    found: Any = schema
    for name in key.split("."):
        if found is Any:
            return Any
        if get_origin(found) is dict:
            found = get_args(found)[1]
        else:
            found = get_type_hints(found).get(name) if dataclasses.is_dataclass(found) else None
    return found


def wanted(schema: type[Any], key: str) -> str:
    """What a key takes, in words."""
    kind = type_of(schema, key)
    if dataclasses.is_dataclass(kind):
        return "a group of keys"
    parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    words = [_words(part) for part in parts if part is not NoneType]
    return " or ".join(words) + (", or null" if NoneType in parts else "")


def _words(kind: Any) -> str:
    of = {str: "", int: " of whole numbers", float: " of numbers"}
    inner = of.get(get_args(kind)[0], "") if get_origin(kind) is list else ""
    return _WORDS.get(get_origin(kind) or kind, "a value") + inner


def form(schema: type[Any], key: str, given: str = "") -> str:
    """How to write a key and its value, a list with what was `given` in it."""
    kind = type_of(schema, key)
    if isinstance(kind, UnionType):
        kind = next(found for found in get_args(kind) if found is not NoneType)
    if get_origin(kind) is list:
        return f"'{key}=[{given.strip('[](){} ') or '...'}]'"
    value = _FORMS.get(get_origin(kind) or kind, "VALUE")
    return f"'{key}={value}'" if value.startswith("{") else f"{key}={value}"


def field_docs(schema: type[Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, documentation) of every field of a configuration, nested ones with their full key."""
    documents: dict[str, str] = {}
    for cls in reversed(schema.__mro__[:-1]):
        documents |= _documents(cls)  # type: ignore[arg-type]
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


@cache
def _documents(cls: type) -> dict[str, str]:
    """The texts below the fields of one class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        item.target.id: " ".join(str(ast.literal_eval(after.value)).split())
        for item, after in itertools.pairwise(tree.body)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(after, ast.Expr)
    }


def keys_below(schema: type[Any], key: str) -> list[str]:
    """The keys of a group of keys such as `optim`; empty where `key` is none."""
    return [name for name, _, _ in field_docs(schema) if name.startswith(f"{key}.")]
