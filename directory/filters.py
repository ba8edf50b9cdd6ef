"""Filter expressions for queries and watches, after AIP-160.

    filter     = [ comparison { "AND" comparison } ]
    comparison = field operator value
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
    value      = word | 'text' | "text"

A word needs no quotes when it has letters, digits and . _ / + - only. Within quotes, a backslash
takes the next character as it is. `:` asks whether a repeated field or map has an entry. A
comparison with a field that the record does not have is false, except `!=`, which is true.

Pure: a filter is a value; parsing and matching do no I/O and take time linear in their input.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from directory import fields
from watari import errors
from watari.v1 import directory_pb2

FILTER_BYTES_MAX = 4096
"""Longest expression (the contract's limit)."""

COMPARISONS_MAX = 64
"""Most comparisons of one filter: bounds the work for every record."""

SHOWN_CHARS_MAX = 32
"""What cannot be read is quoted in the message up to this length."""

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<operator><=|>=|!=|=|<|>|:)
    | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[A-Za-z0-9._/+-]+)
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_FIELD_START = re.compile(r"[A-Za-z_]", re.ASCII)
_AND = "AND"
_RESERVED = (_AND, "OR", "NOT")
_ORDERED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
OPERATORS: dict[fields.Type, tuple[str, ...]] = {
    fields.Type.TEXT: ("=", "!="),
    fields.Type.KIND: ("=", "!="),
    fields.Type.BOOLEAN: ("=", "!="),
    fields.Type.NUMBER: ("=", "!=", *_ORDERED),
    fields.Type.BYTES: ("=", "!=", *_ORDERED),
    fields.Type.TEXTS: (":",),
}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


@dataclass(frozen=True)
class Comparison:
    """One field compared with one value."""

    field: str
    operator: str
    value: fields.Value
    test: Callable[[directory_pb2.Record], bool]


@dataclass(frozen=True)
class Filter:
    """A parsed filter: all of its comparisons must hold. Without any, every record matches."""

    comparisons: tuple[Comparison, ...] = ()

    def matches(self, record: directory_pb2.Record) -> bool:
        """Whether the record satisfies the filter."""
        return all(comparison.test(record) for comparison in self.comparisons)


def parse(text: str) -> Filter:
    """The filter that `text` means; blank text matches everything.

    Raises InvalidArgument FILTER_INVALID; metadata `position` is the character, from 0, where
    reading failed.
    """
    if len(text.encode()) > FILTER_BYTES_MAX:
        _refuse("the filter is too long", 0, f"at most {FILTER_BYTES_MAX} bytes")
    parser = _Parser(list(_tokens(text)), len(text))
    return parser.filter()


class _Parser:
    def __init__(self, tokens: list[_Token], length: int) -> None:
        self._tokens = tokens
        self._end = _Token("end", "", length)
        self._at = 0

    def filter(self) -> Filter:
        comparisons: list[Comparison] = []
        while self._peek() is not self._end:
            if comparisons:
                self._take_and()
            if len(comparisons) == COMPARISONS_MAX:
                _refuse("too many comparisons", self._peek().position, f"at most {COMPARISONS_MAX}")
            comparisons.append(self._comparison())
        return Filter(tuple(comparisons))

    def _comparison(self) -> Comparison:
        name = self._take_field()
        at = name.position
        field = fields.find(name.text)
        if field is None:
            _refuse(
                f"there is no field {_shown(name.text)}",
                at,
                f"known fields: {', '.join(fields.known())}",
            )
        sign = self._take()
        allowed = OPERATORS[field.type]
        if sign.kind != "operator" or sign.text not in allowed:
            _refuse(
                f"{_shown(sign.text) or 'the end'} cannot follow {name.text}",
                sign.position,
                f"{name.text} takes {' '.join(allowed)}",
            )
        value = self._value(name.text, field)
        test = _test(field.read, sign.text, value)
        return Comparison(name.text, sign.text, value, test)

    def _value(self, name: str, field: fields.Field) -> fields.Value:
        token = self._take()
        if token.kind not in {"word", "quoted"} or (
            token.kind == "word" and token.text in _RESERVED
        ):
            _refuse(
                f"{_shown(token.text) or 'the end'} is not a value",
                token.position,
                "write a word, a number, or text in quotes",
            )
        try:
            return fields.parse_value(field.type, token.text)
        except ValueError as error:
            _refuse(f"{_shown(token.text)} is no value for {name}", token.position, str(error))

    def _take_field(self) -> _Token:
        token = self._take()
        if token.kind != "word" or token.text in _RESERVED or not _FIELD_START.match(token.text):
            _refuse(
                f"{_shown(token.text) or 'the end'} is not a field",
                token.position,
                "write comparisons such as free.vcpus >= 4, joined by AND; "
                "OR, NOT and parentheses are not served",
            )
        following = self._peek()
        # `labels."odd name"`: a quoted part follows the dot directly.
        if token.text.endswith(".") and following.kind == "quoted":
            self._take()
            return _Token("word", token.text + following.text, token.position)
        return token

    def _take_and(self) -> None:
        token = self._take()
        if (token.kind, token.text) != ("word", _AND):
            _refuse(
                f"{_shown(token.text)} where AND is expected",
                token.position,
                "join comparisons by AND in capitals; OR, NOT and parentheses are not served",
            )
        if self._peek() is self._end:
            _refuse("nothing follows AND", self._end.position, "write a comparison after it")

    def _peek(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else self._end

    def _take(self) -> _Token:
        token = self._peek()
        self._at += 1
        return token


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            _refuse(
                f"cannot read {_shown(text[position:])}",
                position,
                "quote values that have other characters than letters, digits and . _ / + -",
            )
        kind, raw = str(match.lastgroup), match[0]
        if kind == "quoted":
            raw = re.sub(r"\\(.)", r"\1", raw[1:-1], flags=re.DOTALL)
        if kind != "space":
            yield _Token(kind, raw, position)
        position = match.end()


def _test(
    read: Callable[[directory_pb2.Record], fields.Value | None], sign: str, value: fields.Value
) -> Callable[[directory_pb2.Record], bool]:
    if sign == "=":
        return lambda record: read(record) == value
    if sign == "!=":
        return lambda record: read(record) != value
    holds: Callable[[Any, Any], bool] = operator.contains if sign == ":" else _ORDERED[sign]

    def test(record: directory_pb2.Record) -> bool:
        found = read(record)
        return found is not None and holds(found, value)

    return test


def _shown(text: str) -> str:
    cut = text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."
    return repr(cut) if text else ""


def _refuse(problem: str, position: int, hint: str) -> NoReturn:
    raise errors.InvalidArgument(
        "FILTER_INVALID",
        f"filter: {problem}, at character {position}",
        hint=hint,
        position=position,
        field="filter",
    )
