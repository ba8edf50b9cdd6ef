"""The providers on this machine join one another, by an invitation like any others."""

from watari.cli.clients import Clients
from watari.cli.federation.layout import Plan
from watari.cli.membership import Membership
from watari.v1 import federation_pb2


def join_all(plan: Plan, clients: Clients) -> None:
    """Has every provider joined with every other one. Both operators are the one user here, so both
    confirm what they see. Raises WatariError.
    """
    for at, host in enumerate(plan.clouds):
        for guest in plan.clouds[at + 1 :]:
            _join(
                clients.membership(host.cloud_id),
                host.domain,
                clients.membership(guest.cloud_id),
                guest.domain,
            )


def _join(host: Membership, host_domain: str, guest: Membership, guest_domain: str) -> None:
    if not (_knows(host, guest_domain) and _knows(guest, host_domain)):
        guest.accept(host.invite(0).invitation)
    for side, other in ((guest, host_domain), (host, guest_domain)):
        provider = side.provider(other)
        if provider.state == federation_pb2.PROVIDER_STATE_PENDING:
            side.confirm(other, provider.ca_sha256)


def _knows(side: Membership, domain: str) -> bool:
    known = {each.domain: each.state for each in side.providers()}
    return known.get(domain) in (
        federation_pb2.PROVIDER_STATE_PENDING,
        federation_pb2.PROVIDER_STATE_ACCEPTED,
    )
