"""Amounts of resources by class, and the words for them. Pure.

A class is "vcpus", "memory", "disk", or "other:<name>" for a provider's own ones; memory and disk
are in bytes.
"""

from collections.abc import Mapping
from types import MappingProxyType

from watari.v1 import common_pb2

Amounts = Mapping[str, int]
"""Amount by class; an absent class is 0."""

_OTHER = "other:"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_PRECISE_FROM = 1024
"""A size that is no whole number of a unit is told in one of which it has at least this many."""


def of(resources: common_pb2.Resources) -> Amounts:
    """The amounts of a message."""
    amounts = {
        "vcpus": resources.vcpus,
        "memory": resources.memory_bytes,
        "disk": resources.disk_bytes,
    }
    amounts |= {f"{_OTHER}{name}": amount for name, amount in resources.other.items()}
    return MappingProxyType(amounts)


def words_up(kind: str, amount: int) -> str:
    """Such as "8 vCPUs" or "2 GiB of memory"; a size is rounded up, by less than 0.1 %."""
    return _words(kind, amount, up=True)


def words_down(kind: str, amount: int) -> str:
    """As `words_up`, but rounded down: what is said to fit does fit.

    With a < b, `words_down(a)` and `words_up(b)` are always different texts.
    """
    return _words(kind, amount, up=False)


def limit_words(kind: str, amount: int) -> str:
    """Such as "8 vCPUs or fewer" or "2 GiB of memory or less"."""
    return f"{words_down(kind, amount)} or {'less' if kind in ('memory', 'disk') else 'fewer'}"


def _words(kind: str, amount: int, *, up: bool) -> str:
    if kind == "vcpus":
        return "1 vCPU" if amount == 1 else f"{amount} vCPUs"
    if kind in ("memory", "disk"):
        return f"{_size(amount, up=up)} of {kind}"
    return f"{amount} {kind.removeprefix(_OTHER)}"


def _size(size: int, *, up: bool) -> str:
    """A whole number of the largest unit that loses little, so that it can be typed back in."""
    for power in range(len(_UNITS) - 1, 0, -1):
        count, rest = divmod(size, 1024**power)
        if count and (rest == 0 or count >= _PRECISE_FROM):
            return f"{count + (up and rest > 0)} {_UNITS[power]}"
    return f"{size} B"
