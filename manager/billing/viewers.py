"""Whose money a caller may see: functions of values.

The access table (`watari.authz`) says which methods a kind of party may call at all. An operator
sees all of its own cloud, a tenant of this provider what it owes itself, another provider's manager
what is between the two. What tenants of other providers use here is billed to their provider: there
is nothing here that they owe.
"""

from dataclasses import dataclass

from manager import ownership
from watari.identity import Role, SpiffeId

NOBODY = "nobody"
"""A payer that nothing is billed to."""


@dataclass(frozen=True)
class Viewer:
    """The part of a cloud's money that a caller sees."""

    payer: str | None
    """The one whose money it is; None is everybody's."""

    def sees(self, payer: str) -> bool:
        """Whether something of that payer exists for the caller."""
        return self.payer in (None, payer)

    @property
    def accounts(self) -> list[str] | None:
        """The accounts that it may see; None is all."""
        if self.payer is None:
            return None
        return [f"{side}:{self.payer}" for side in ("disputed", "receivable")]


def viewer_of(caller: SpiffeId, own_domain: str) -> Viewer:
    """What a party sees of the money of a cloud of `own_domain`."""
    if ownership.is_operator(caller, own_domain):
        return Viewer(None)
    if caller.domain == own_domain and caller.role is Role.USER:
        return Viewer(f"tenant:{caller.name}")
    if caller.domain != own_domain and caller.role in (Role.MANAGER, Role.OPERATOR):
        return Viewer(peer(caller.domain))
    return Viewer(NOBODY)


def peer(domain: str) -> str:
    """How another provider is called as a payer."""
    return f"peer:{domain}"
