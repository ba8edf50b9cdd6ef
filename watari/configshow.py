"""Prints settings as they stand, as TOML with each field's docstring above it.

What it prints can be loaded again, except that secrets are masked.
"""

import ast
import dataclasses
import enum
import functools
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MASK = "********"
"""Stands for the value of a field whose metadata says `secret`."""

COMMENT_COLUMNS = 98

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def show(settings: Any, section: str = "") -> str:
    """TOML text of a settings dataclass; `section` names the table that holds it."""
    return "\n".join(_table(settings, section, "[{}]")).strip() + "\n"


def docstrings(cls: type) -> dict[str, str]:
    """Field name to docstring, of a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _own_docstrings(base)
    return found


@functools.lru_cache(maxsize=256)
def _own_docstrings(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - what inspect returns for a class
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(after.value.value)
    return found


def _table(settings: Any, name: str, header: str) -> Iterator[str]:
    if name:
        yield ""
        yield header.format(name)
    tables = []
    texts = docstrings(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if _is_table(value):
            tables.append((field.name, value))
            continue
        yield from _comment(texts.get(field.name, ""))
        if value is None:
            yield f"# {field.name} is not set"
        else:
            yield f"{field.name} = {_value(MASK if field.metadata.get('secret') else value)}"
    for key, value in tables:
        yield from _nested(f"{name}.{key}" if name else key, value, texts.get(key, ""))


def _nested(name: str, value: Any, text: str) -> Iterator[str]:
    yield ""
    yield from _comment(text)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            quoted = key if _BARE_KEY.fullmatch(key) else _text(key)
            yield from _table(inner, f"{name}.{quoted}", "[{}]")
    elif isinstance(value, tuple):
        for inner in value:
            yield from _table(inner, name, "[[{}]]")
    else:
        yield from _table(value, name, "[{}]")


def _is_table(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(dataclasses.is_dataclass(inner) for inner in value.values())
    if isinstance(value, tuple):
        return any(dataclasses.is_dataclass(inner) for inner in value)
    return dataclasses.is_dataclass(value)


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(text.split()), COMMENT_COLUMNS):
        yield f"# {line}"


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case enum.Enum():
            return _value(value.value)
        case str() | Path():
            return _text(str(value))
        case tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            return "{" + ", ".join(f"{_text(k)} = {_value(v)}" for k, v in value.items()) + "}"
        case _:
            return str(value)


def _text(text: str) -> str:
    """JSON's escapes are a subset of TOML's, DEL apart, which JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
