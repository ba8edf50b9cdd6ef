"""Named places where a test can make the program fail.

A module declares its points when it is imported and hits them where a fault matters:

    AFTER_COMMIT = failpoint.declare("manager.saga.after_commit")
    ...
    failpoint.hit(AFTER_COMMIT)

They are armed by WATARI_FAILPOINTS in the environment of a service, or by `arm` and `armed` in the
same process. The grammar is

    WATARI_FAILPOINTS = name=terms[;name=terms...]
    terms             = term[->term...]
    term              = [count*]action
    action            = off | error(REASON) | kill | stop | sleep(milliseconds)

A term with a count acts that many times and gives way to the next one; without, it acts for ever.
After the last term the point is off. `stop` stops the whole process (SIGSTOP) right there, until
somebody lets it go on. An unarmed point costs one dictionary lookup.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from watari import errors

ENVIRONMENT_VARIABLE = "WATARI_FAILPOINTS"
TERMS_CHARS_MAX = 4096
"""Longer settings are refused before they are parsed."""

SLEEP_MS_MAX = 600_000
"""Longest sleep of a term: a test that needs more is wrong."""

_TERM = re.compile(r"(?:(\d{1,9})\*)?(off|kill|stop|error\(([A-Z][A-Z0-9_]*)\)|sleep\((\d{1,9})\))")


@dataclass
class _Term:
    remaining: int | None
    action: str
    reason: str = ""
    sleep_ms: int = 0


_lock = threading.Lock()
_points: dict[str, list[_Term] | None] = {}
_undeclared: dict[str, list[_Term] | None] = {}


def declare(name: str) -> str:
    """Make `name` known and return it. Declaring it again changes nothing."""
    with _lock:
        if name not in _points:
            _points[name] = _undeclared.pop(name, None)
    return name


def names() -> list[str]:
    """Every declared point, sorted."""
    with _lock:
        return sorted(_points)


def undeclared() -> list[str]:
    """Points that the environment armed and no imported module has declared: misspelt, mostly."""
    with _lock:
        return sorted(_undeclared)


def hit(name: str) -> None:
    """Act as the point is armed to; nothing when it is not.

    Raises Unavailable with the armed reason, or AssertionError when nobody declared the name.
    """
    try:
        terms = _points[name]
    except KeyError:
        raise AssertionError(f"fail point {name!r} was never declared") from None
    if terms is not None:
        _act(name, terms)


def arm(name: str, terms: str) -> None:
    """Arm a declared point, in place of what it was armed with."""
    parsed = _parse_terms(terms)
    with _lock:
        if name not in _points:
            raise AssertionError(f"fail point {name!r} was never declared")
        _points[name] = parsed


def disarm(name: str) -> None:
    """Switch the point off."""
    with _lock:
        if name in _points:
            _points[name] = None


@contextmanager
def armed(name: str, terms: str) -> Iterator[None]:
    """Armed within the block, off after it."""
    arm(name, terms)
    try:
        yield
    finally:
        disarm(name)


def arm_from_environment(environ: Mapping[str, str]) -> None:
    """Arm what WATARI_FAILPOINTS says; names not declared yet are armed when they are.

    Raises InvalidArgument CONFIG_INVALID when it does not follow the grammar.
    """
    text = environ.get(ENVIRONMENT_VARIABLE, "")
    if len(text) > TERMS_CHARS_MAX:
        raise _invalid(f"{len(text)} characters", f"at most {TERMS_CHARS_MAX} characters")
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, terms = entry.partition("=")
        if not separator:
            raise _invalid(entry, "name=terms")
        found[name.strip()] = _parse_terms(terms)
    with _lock:
        for name, parsed in found.items():
            (_points if name in _points else _undeclared)[name] = parsed


def _act(name: str, terms: list[_Term]) -> None:
    term = _take(name, terms)
    if term is None or term.action == "off":
        return
    if term.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if term.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    if term.action == "sleep":
        # Real time on purpose: a sleeping point stands for a machine that stalls.
        time.sleep(term.sleep_ms / 1000)
        return
    raise errors.Unavailable(term.reason, f"fail point {name}", hint="a test armed it")


def _take(name: str, terms: list[_Term]) -> _Term | None:
    with _lock:
        while terms:
            term = terms[0]
            if term.remaining is None:
                return term
            if term.remaining > 0:
                term.remaining -= 1
                return term
            terms.pop(0)
        if _points[name] is terms:
            _points[name] = None
        return None


def _parse_terms(text: str) -> list[_Term]:
    terms = []
    for part in text.split("->"):
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise _invalid(part, "[count*]off, error(REASON), kill, stop or sleep(milliseconds)")
        count, action, reason, sleep_ms = match.groups()
        if int(sleep_ms or 0) > SLEEP_MS_MAX:
            raise _invalid(part, f"a sleep of at most {SLEEP_MS_MAX} ms")
        terms.append(
            _Term(
                remaining=None if count is None else int(count),
                action=action.partition("(")[0],
                reason=reason or "",
                sleep_ms=int(sleep_ms or 0),
            )
        )
    return terms


def _invalid(text: str, expected: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "CONFIG_INVALID",
        f"{ENVIRONMENT_VARIABLE}: cannot read {text!r}",
        hint=f"write {expected}",
        key=ENVIRONMENT_VARIABLE,
    )
