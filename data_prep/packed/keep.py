"""Which records to keep: rules over their columns, such as `similarity>0.28 and width>=200`.

    rules       = one {"and" one}, or a choice as a single rule
    choice      = all {"or" all}
    all         = one {"and" one}
    one         = "not" one | "(" choice ")" | comparison
    comparison  = column operator value
    operator    = ">" | ">=" | "<" | "<=" | "==" | "=" | "!="
    value       = number | text in quotes | "true" | "false"
    column      = letters, digits and "_", with dots between the keys of nested objects

The text is parsed into comparisons and nothing else: none of it is evaluated by Python.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from bridgetower_train.errors import ConfigError

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<text>'[^']*'|"[^"]*")
    | (?P<sign>>=|<=|==|!=|=|>|<)
    | (?P<word>[()]|[A-Za-z_]\w*(?:\.\w+)*)
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.ASCII,
)
_OPERATORS = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "=": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
_CONSTANTS = {"true": True, "false": False}
_WORDS = ("and", "or", "not", "(", ")")
_MAX_DEPTH = 50

Columns = Mapping[str, Any]


class _NoColumnError(Exception):
    """A record lacks a column."""


class _Node(Protocol):
    def holds(self, columns: Columns) -> bool:
        """Whether a record has it; _NoColumnError where that cannot be told."""


class _Comparison(NamedTuple):
    column: str
    sign: str
    value: float | str | bool

    def holds(self, columns: Columns) -> bool:
        found = _value(columns, self.column)
        if isinstance(self.value, float) and isinstance(found, str):  # tables of text have numbers as text
            try:
                found = float(found)
            except ValueError:
                raise _NoColumnError(f"{self.column} is no number") from None
        try:
            return bool(_OPERATORS[self.sign](found, self.value))
        except TypeError:
            raise _NoColumnError(f"{self.column} is of another type") from None


class _Not(NamedTuple):
    node: _Node

    def holds(self, columns: Columns) -> bool:
        return not self.node.holds(columns)


class _All(NamedTuple):
    nodes: Sequence[_Node]

    def holds(self, columns: Columns) -> bool:
        return all(node.holds(columns) for node in self.nodes)


class _Any(NamedTuple):
    nodes: Sequence[_Node]

    def holds(self, columns: Columns) -> bool:
        return any(node.holds(columns) for node in self.nodes)


@dataclass(frozen=True)
class Rule:
    """A part of `keep`, which a record must fulfil."""

    text: str
    node: _Node

    def reason(self, columns: Columns) -> str:
        """The state of a record that does not fulfil it, or lacks a column of it; empty if it does."""
        try:
            return "" if self.node.holds(columns) else f"not {self.text}"
        except _NoColumnError as error:
            return f"not {self.text}: {error}"


def parse_keep(text: str) -> list[Rule]:
    """The rules of `keep`, the key of that name, all of which have to be fulfilled. ConfigError where it is no such text."""
    return _Parser(text).rules() if text.strip() else []


def _value(columns: Columns, name: str) -> Any:
    found: Any = columns
    for key in [name] if name in columns else name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None:
        raise _NoColumnError(f"no {name}")
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = self._depth = 0

    def rules(self) -> list[Rule]:
        """All of the text."""
        rules = [self._rule()]
        while self._take("and"):
            rules.append(self._rule())
        if self._take("or"):  # which binds less than `and`, so that only the whole is a rule
            self._at = 0
            rules = [Rule(" ".join(self._text.split()), self._choice())]
        if self._next()[0] != "end":
            raise self._error("`and`, `or` or its end")
        return rules

    def _rule(self) -> Rule:
        start = self._at
        node = self._one()
        return Rule(" ".join(self._text[start : self._at].split()), node)

    def _choice(self) -> _Node:
        nodes = [self._all()]
        while self._take("or"):
            nodes.append(self._all())
        return _Any(nodes)

    def _all(self) -> _Node:
        nodes = [self._one()]
        while self._take("and"):
            nodes.append(self._one())
        return _All(nodes)

    def _one(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ConfigError(f"keep: is nested more than {_MAX_DEPTH} levels deep")
        if self._take("not"):
            node: _Node = _Not(self._one())
        elif self._take("("):
            node = self._choice()
            if not self._take(")"):
                raise self._error("`)`")
        else:
            node = self._comparison()
        self._depth -= 1
        return node

    def _comparison(self) -> _Node:
        column = self._expect("a column", "word")
        if column in _WORDS:
            raise self._error("a column before it")
        sign = self._expect("one of > >= < <= == !=", "sign")
        kind, token = self._next()[:2]
        if kind == "word" and token not in _CONSTANTS:
            raise self._error("a number, a text in quotes, true or false")
        self._expect("a value", kind if kind in ("number", "text", "word") else "number")
        value = float(token) if kind == "number" else token[1:-1] if kind == "text" else _CONSTANTS[token]
        return _Comparison(column, sign, value)

    def _take(self, word: str) -> bool:
        kind, token, end = self._next()
        taken = kind == "word" and token == word
        self._at = end if taken else self._at
        return taken

    def _expect(self, what: str, kind: str) -> str:
        found, token, end = self._next()
        if found != kind:
            raise self._error(what)
        self._at = end
        return token

    def _next(self) -> tuple[str, str, int]:
        """(kind, token, where it ends) of what follows."""
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self._error("a rule such as width>=200")
        kind = str(found.lastgroup)
        return kind, found[kind], found.end()

    def _error(self, expected: str) -> ConfigError:
        left = self._text[self._at :].strip()
        return ConfigError(f"keep={self._text}: {expected} is missing {f'at `{left}`' if left else 'at its end'}")
