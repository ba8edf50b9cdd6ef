"""Whose machines a caller may see and move: functions of values.

The access table (`watari.authz`) says which methods a kind of party may call at all. This says for
which objects: an operator acts for everything of its own provider, a user for exactly its tenant's,
wherever it comes from, and nobody else for anything.
"""

from dataclasses import dataclass

from watari import errors
from watari.identity import Role, SpiffeId
from watari.v1 import manager_pb2


@dataclass(frozen=True)
class Tenant:
    """Who pays for machines: a name, and the provider that knows the tenant by it."""

    domain: str
    name: str


@dataclass(frozen=True)
class View:
    """The part of a cloud that a caller may see and change; the rest does not exist for it."""

    tenant: Tenant | None
    """The one whose machines, migrations and usage it is; None is everybody's."""


EVERYTHING = View(None)


def view_of(caller: SpiffeId, own_domain: str) -> View:
    """What a person may see and move in a cloud of `own_domain`.

    Raises Denied NOT_ALLOWED for who is neither a tenant nor an operator of this provider.
    """
    if is_operator(caller, own_domain):
        return EVERYTHING
    if caller.role is Role.USER:
        return View(Tenant(caller.domain, caller.name))
    raise errors.Denied(
        "NOT_ALLOWED",
        f"{caller} has no machines in a cloud of {own_domain}",
        hint=f"ask as a tenant's user, or as an operator of {own_domain}",
    )


def is_operator(caller: SpiffeId, own_domain: str) -> bool:
    """Whether the caller runs this provider."""
    return caller.role is Role.OPERATOR and caller.domain == own_domain


def domain_of_arrival(told: str, manager: SpiffeId) -> str:
    """The provider whose tenant a machine is that `manager` sends; `told` is empty for its own."""
    return told or manager.domain


def tenant_of_arrival(request: manager_pb2.ReserveRequest, manager: SpiffeId) -> Tenant:
    """Whose machine it is that `manager` reserves for."""
    return Tenant(domain_of_arrival(request.tenant_domain, manager), request.tenant)
