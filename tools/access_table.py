"""Writes the tables of docs/access.md from what the servers enforce: `watari.authz.TABLE` and the
services of protos/. `make access` runs it, after a change of either.

The page's own words, above the marker, stay as they are; everything below is made here.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from watari import authz
from watari.identity import Role, SpiffeId
from watari.v1 import agent_pb2, audit_pb2, broker_pb2, directory_pb2, federation_pb2, manager_pb2

PAGE = Path(__file__).resolve().parent.parent / "docs" / "access.md"
MARKER = "<!-- Below: made by tools/access_table.py. -->\n"

_MODULES = (
    manager_pb2,
    broker_pb2,
    directory_pb2,
    agent_pb2,
    federation_pb2,
    audit_pb2,
    health_pb2,
    reflection_pb2,
)
_PACKAGE = "watari.v1."
_OWN, _FOREIGN = "own.example", "foreign.example"
_DOMAINS = {"own": _OWN, "foreign": _FOREIGN}

Caller = tuple[str, Role]
"""Where from, and what it is."""

_PEOPLE_FIRST = (Role.USER, Role.OPERATOR, Role.BROKER)
CALLERS: tuple[Caller, ...] = tuple(
    (scope, role)
    for role in (*_PEOPLE_FIRST, *(each for each in Role if each not in _PEOPLE_FIRST))
    for scope in _DOMAINS
)


def render(page: str) -> str:
    """The page with its tables as they must be. Raises ValueError when it has no marker."""
    words, marker, _ = page.partition(MARKER)
    if not marker:
        raise ValueError(f"the page has no line {MARKER!r}")
    return words + marker + "\n" + "\n".join(tables())


def tables() -> Iterator[str]:
    """The lines of every service's table, and of what no service of ours describes."""
    left = set(authz.TABLE)
    for service in _services():
        methods = [f"/{service.full_name}/{method.name}" for method in service.methods]
        yield from _table(service.full_name, methods)
        left -= set(methods)
    others: dict[str, list[str]] = {}
    for method in sorted(left):
        others.setdefault(method.split("/")[1], []).append(method)
    for service_name, methods in others.items():
        yield from _table(service_name, methods)


def may(method: str, caller: Caller) -> bool:
    """Whether such a caller may call; asks what the servers ask."""
    scope, role = caller
    return authz.allows(method, SpiffeId(_DOMAINS[scope], role, "x"), _OWN)


def _services() -> Iterator[ServiceDescriptor]:
    for module in _MODULES:
        yield from module.DESCRIPTOR.services_by_name.values()


def _table(service: str, methods: Sequence[str]) -> Iterator[str]:
    """One row a method; a column for each kind of caller that may call any of them."""
    columns = [each for each in CALLERS if any(may(method, each) for method in methods)]
    yield f"### {service.removeprefix(_PACKAGE)}"
    yield ""
    yield "| method | " + " | ".join(f"{scope} {role}" for scope, role in columns) + " |"
    yield "|---" + "|:-:" * len(columns) + "|"
    for method in methods:
        cells = ("✓" if may(method, each) else " " for each in columns)
        yield f"| `{method.rpartition('/')[2]}` | " + " | ".join(cells) + " |"
    yield ""


def main() -> None:
    """Rewrites the page; with `--check` only tells, by the exit status, whether it would change."""
    before = PAGE.read_text("utf-8")
    after = render(before)
    if "--check" in sys.argv[1:]:
        sys.exit(before != after)
    PAGE.write_text(after, "utf-8")


if __name__ == "__main__":
    main()
