"""Settings: frozen dataclasses, filled from a table of one TOML file and from the environment.

A field's docstring (the string literal under it) gives its unit and reason and is printed by
`show`. The environment overrides the file: `WATARI_<SECTION>_<FIELD>`, nested fields with a double
underscore, as in `WATARI_MANAGER_RPC__WORKERS_MAX=32`; a tuple is written with commas. Numbers
whose name has a `_bytes` or `_seconds` part also take text such as "4GiB" and "90s". Field
metadata: `min`, `max`, `secret`. Relative paths are relative to the file's folder.

Never: keeps what it loaded, or accepts a key that it does not know.
"""

import dataclasses
import difflib
import enum
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from watari import errors, units
from watari.configshow import show

__all__ = ["load", "show"]

FILE_BYTES_MAX = 1024 * 1024
"""A larger configuration file is refused: it is not one."""

_Settings = TypeVar("_Settings")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_QUANTITY = re.compile(r"_(bytes|seconds)(_|$)")


class _Variable(str):
    """Text that came from the environment, and from which variable."""

    __slots__ = ("name",)
    name: str


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a value stands, for messages, and what relative paths are relative to."""

    source: str
    key: str
    folder: Path

    def inner(self, key: str) -> "_Place":
        return dataclasses.replace(self, key=f"{self.key}.{key}")

    def error(self, problem: str, hint: str, raw: object = None) -> errors.InvalidArgument:
        source = raw.name if isinstance(raw, _Variable) else self.source
        return errors.InvalidArgument(
            "CONFIG_INVALID",
            f"{source}: {self.key}: {problem}",
            hint=hint,
            source=source,
            key=self.key,
        )


def load(
    cls: type[_Settings], path: Path | None, environ: Mapping[str, str], section: str
) -> _Settings:
    """The settings `cls` from table `[section]` of the file at `path` and from the environment.

    `cls` is a frozen dataclass whose fields are int, float, bool, str, Path, Enum, Literal,
    `X | None`, `tuple[X, ...]`, `dict[str, X]` or further dataclasses. Without a file, defaults and
    the environment alone decide. Raises InvalidArgument CONFIG_INVALID, which names the file or
    variable, the key, what is wrong and what would be valid.
    """
    place = _Place(str(path or "defaults"), section, path.parent if path else Path())
    table = {} if path is None else _section(_read(path, place), section, place)
    variables = _variables(environ, f"WATARI_{section.upper()}_")
    settings: _Settings = _build(cls, _merge(table, variables, place), place)
    return settings


def _read(path: Path, place: _Place) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise place.error("the file is too large", f"at most {FILE_BYTES_MAX} bytes")
        return tomllib.loads(raw.decode())
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise place.error(problem, "check the path and its permissions") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise place.error(f"is not TOML: {error}", "see https://toml.io") from error


def _section(document: dict[str, Any], section: str, place: _Place) -> dict[str, Any]:
    """Other tables belong to other programs; what looks like a slip is refused all the same."""
    for key, value in document.items():
        if not isinstance(value, dict):
            raise place.error(f"{key!r} stands outside any table", f"put it under [{section}]")
    if section not in document:
        for slip in difflib.get_close_matches(section, document, n=1, cutoff=0.8):
            raise place.error(
                f"there is a table [{slip}] but none [{section}]", f"name it [{section}]"
            )
    return dict(document.get(section, {}))


def _variables(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name in sorted(environ):
        if not name.startswith(prefix):
            continue
        *parents, last = name.removeprefix(prefix).lower().split("__")
        node = tree
        for parent in parents:
            inner = node.setdefault(parent, {})
            node = inner if isinstance(inner, dict) else node
        node[last] = _Variable(environ[name])
        node[last].name = name
    return tree


def _merge(table: dict[str, Any], over: dict[str, Any], place: _Place) -> dict[str, Any]:
    merged = dict(table)
    for key, value in over.items():
        below = merged.get(key, {})
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _merge(below, value, place.inner(key))
        else:
            merged[key] = value
    return merged


def _build(cls: Any, raw: object, place: _Place) -> Any:
    if not isinstance(raw, dict):
        raise place.error("must be a table", f"with the keys {_listed(cls)}", raw)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key, value in raw.items():
        if key not in fields:
            raise place.inner(key).error("unknown key", _did_you_mean(key, fields), value)
    hints, values = typing.get_type_hints(cls), {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _field(field, hints[name], raw[name], place.inner(name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise place.inner(name).error("is missing", f"set it under [{place.key}]")
    try:
        return cls(**values)
    except ValueError as error:
        raise place.error(str(error), "change what it names") from error


def _field(field: "dataclasses.Field[Any]", hint: Any, raw: object, place: _Place) -> Any:
    value = _convert(hint, raw, place)
    least, most = field.metadata.get("min"), field.metadata.get("max")
    below = least is not None and value is not None and value < least
    above = most is not None and value is not None and value > most
    if below or above:
        bounds = [f"at least {least}"] * (least is not None) + [f"at most {most}"] * (
            most is not None
        )
        raise place.error(f"{value} is out of bounds", " and ".join(bounds), raw)
    return value


def _convert(hint: Any, raw: object, place: _Place) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, raw, place)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _optional(arguments, raw, place)
    if origin is typing.Literal:
        return _choice({str(value): value for value in arguments}, raw, place)
    if origin is tuple:
        return _tuple(arguments[0], raw, place)
    if origin is dict:
        if not isinstance(raw, dict):
            raise place.error("must be a table", "one entry per name", raw)
        return {key: _convert(arguments[1], raw[key], place.inner(key)) for key in raw}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice({str(member.value): member for member in hint}, raw, place)
    return _scalar(hint, raw, place)


def _optional(arguments: tuple[Any, ...], raw: object, place: _Place) -> Any:
    if isinstance(raw, _Variable) and not raw:
        return None
    (inner,) = (argument for argument in arguments if argument is not types.NoneType)
    return _convert(inner, raw, place)


def _choice(choices: dict[str, Any], raw: object, place: _Place) -> Any:
    if str(raw) not in choices:
        raise place.error(f"{str(raw)!r} is not a choice", f"one of {', '.join(choices)}", raw)
    return choices[str(raw)]


def _tuple(hint: Any, raw: object, place: _Place) -> tuple[Any, ...]:
    if isinstance(raw, _Variable):
        items: list[object] = []
        for part in filter(None, (part.strip() for part in raw.split(","))):
            item = _Variable(part)
            item.name = raw.name
            items.append(item)
    elif isinstance(raw, list):
        items = raw
    else:
        raise place.error("must be a list", "such as [1, 2]", raw)
    return tuple(_convert(hint, item, place.inner(str(at))) for at, item in enumerate(items))


def _scalar(hint: Any, raw: object, place: _Place) -> Any:
    if hint is str and isinstance(raw, str):
        return str(raw)
    if hint is Path and isinstance(raw, str):
        return place.folder / Path(raw).expanduser()
    if hint is bool:
        value = _BOOLEANS.get(raw.lower()) if isinstance(raw, _Variable) else raw
        if isinstance(value, bool):
            return value
    if hint in (int, float):
        return _number(hint, raw, place)
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    raise place.error(f"{raw!r} has the wrong type", f"write {names.get(hint, 'text')}", raw)


def _number(hint: Any, raw: object, place: _Place) -> Any:
    number = _quantity(hint, raw, place) if isinstance(raw, str) else raw
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise place.error(f"{raw!r} is not a number", "write it without quotes", raw)
    if not math.isfinite(number):
        raise place.error(f"{raw} is not finite", "write a finite number", raw)
    if hint is int and number != int(number):
        raise place.error(f"{raw} is not a whole number", "drop the fraction", raw)
    return hint(number)


def _quantity(hint: Any, text: str, place: _Place) -> int | float:
    unit = _QUANTITY.search(place.key.rpartition(".")[2])
    if unit is None and not isinstance(text, _Variable):
        raise place.error(f"{text!r} is text", "write a number without quotes")
    try:
        if unit is None:
            return float(text) if hint is float else int(text)
        return units.parse_bytes(text) if unit[1] == "bytes" else units.parse_duration(text)
    except ValueError as error:
        kind = "a whole number" if hint is int else "a number"
        raise place.error(f"{text!r} is not {kind}", f"write {kind}", text) from error
    except errors.InvalidArgument as error:
        raise place.error(error.message, error.hint, text) from error


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"


def _listed(cls: Any) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cls))
