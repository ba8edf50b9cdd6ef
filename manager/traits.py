"""Which hosts have what a reservation asks for, and nothing of what it forbids."""

from collections.abc import Collection, Iterable

from manager.inventory import HostView
from watari import errors


def suitable(
    hosts: Iterable[HostView], required: Collection[str], forbidden: Collection[str]
) -> list[HostView]:
    """The hosts that have all of the former traits and none of the latter.

    Raises FailedPrecondition HOST_INCOMPATIBLE where there are hosts and none of them does; it says
    for the one that comes closest what is missing, and what is there and must not be.
    """
    known = sorted(hosts, key=lambda host: host.host_id)
    wrong = {host.host_id: _wrong(host, required, forbidden) for host in known}
    found = [host for host in known if not wrong[host.host_id]]
    if found or not known:
        return found
    nearest = min(known, key=lambda host: len(wrong[host.host_id])).host_id
    raise errors.FailedPrecondition(
        "HOST_INCOMPATIBLE",
        f"no host has the traits that are asked for; {nearest} comes closest, but "
        f"{', '.join(wrong[nearest])}",
        hint="ask for other traits, or choose another cloud",
        requirement=wrong[nearest][0],
        host=nearest,
    )


def _wrong(host: HostView, required: Collection[str], forbidden: Collection[str]) -> list[str]:
    missing = [f"{each} is missing" for each in sorted(set(required) - host.traits)]
    return missing + [f"{each} is there" for each in sorted(host.traits & set(forbidden))]
