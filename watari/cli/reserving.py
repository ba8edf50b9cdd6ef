"""`watari reservation create`: room in advance, for a machine that is to come then."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from watari import errors, mandate, units, validate
from watari.cli import lookup
from watari.cli.clients import Clients
from watari.cli.conditions import Conditions
from watari.identity import SpiffeId
from watari.v1 import common_pb2, manager_pb2

TTL_SECONDS = 3600
"""For how long the room is asked for once it is claimed; the cloud may give less."""

_PANEL = "Machine"


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)


@dataclass(frozen=True)
class Described:
    """A machine that is described instead of looked up."""

    machine: Annotated[str, _option("--machine", "UUID", "Its UUID, and how much it needs:")] = ""
    vcpus: Annotated[int, _option("--vcpus", "N", "Virtual CPUs.")] = 0
    memory: Annotated[str, _option("--memory", "SIZE", "Memory, as in 4GiB.")] = ""
    disk: Annotated[str, _option("--disk", "SIZE", "Disk, as in 20GiB.")] = ""
    other: Annotated[
        list[str] | None,
        _option("--resource", "CLASS=N", "Of a further resource class, as in public_ipv4=1."),
    ] = None
    tenant: Annotated[str, _option("--tenant", "TENANT", "Whose it is.")] = ""
    tenant_domain: Annotated[
        str, _option("--domain", "DOMAIN", "The tenant's provider; by default that of its cloud.")
    ] = ""

    def resources(self) -> common_pb2.Resources:
        """How much. Raises InvalidArgument."""
        return common_pb2.Resources(
            vcpus=self.vcpus,
            memory_bytes=units.parse_bytes(self.memory or "0"),
            disk_bytes=units.parse_bytes(self.disk or "0"),
            other=dict(map(_class_and_amount, self.other or ())),
        )


NOT_DESCRIBED = Described()


@dataclass(frozen=True)
class Times:
    """From when until when, as they are written: moments, or so long after now or after the start.

    Raises InvalidArgument for what is neither.
    """

    starts: str
    ends: str

    @property
    def relative(self) -> bool:
        """Whether they mean another time when they are written again."""
        return "+" in (self.starts[:1], self.ends[:1])

    def span(self, now: datetime) -> tuple[datetime, datetime]:
        """The moments, to the second."""
        starts = _moment(self.starts, "--starts", now.astimezone(UTC).replace(microsecond=0))
        return starts, _moment(self.ends, "--ends", starts)


def wanted(
    clients: Clients,
    vm: str,
    from_cloud: str | None,
    described: Described,
    reservation_id: str,
) -> manager_pb2.ReserveRequest:
    """The request for a machine that is looked up, or described; its times are not set yet.

    Raises InvalidArgument INVALID_FIELD, NotFound VM_NOT_FOUND and CLOUD_NOT_FOUND.
    """
    if bool(vm) == (described != NOT_DESCRIBED):
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "room is reserved for one machine",
            hint="name it; or describe it: --machine UUID --from CLOUD --tenant TENANT --vcpus N",
        )
    request = manager_pb2.ReserveRequest(
        reservation_id=validate.require_uuid(reservation_id, "id"),
        migration_id=mandate.migration_id(reservation_id),
        ttl_seconds=TTL_SECONDS,
    )
    if vm:
        manager, found = lookup.vm(clients, vm, from_cloud)
        home = _provider(clients, manager.cloud_id)
        request.from_cloud, host_id = manager.cloud_id, found.host_id
        request.vm_id, request.vm_name, request.source_epoch = found.vm_id, found.name, found.epoch
        request.tenant, request.tenant_domain = found.tenant, found.tenant_domain or home
        request.resources.CopyFrom(found.resources)
        request.disks.extend(found.disks)
    else:
        request.from_cloud, host_id = lookup.only(clients, from_cloud), "any"
        home = _provider(clients, request.from_cloud)
        request.vm_id = validate.require_uuid(described.machine, "machine")
        request.vm_name, request.source_epoch = described.machine, 1
        request.tenant, request.tenant_domain = described.tenant, described.tenant_domain or home
        request.resources.CopyFrom(described.resources())
    # Who claims it names the agent that really sends.
    request.source_agent = f"spiffe://{home}/agent/{host_id}"
    return request


def same(made: manager_pb2.Reservation, request: manager_pb2.ReserveRequest) -> bool:
    """Whether a reservation is the one that is asked for again. What its machine needs may have
    changed meanwhile: that is looked at when it is claimed.
    """
    names = ("reservation_id", "migration_id", "from_cloud", "vm_id", "tenant")
    return (made.starts_at, made.ends_at) == (request.starts_at, request.ends_at) and all(
        getattr(made, name) == getattr(request, name) for name in names
    )


def conditioned(
    request: manager_pb2.ReserveRequest, conditions: Conditions, times: Times, now: datetime
) -> manager_pb2.ReserveRequest:
    """The request with its times and conditions. Raises InvalidArgument."""
    starts, ends = times.span(now)
    request.starts_at.FromDatetime(starts)
    request.ends_at.FromDatetime(ends)
    return conditions.into(request)


def id_of(given: str, times: Times) -> str:
    """The id that was given, or a new one. Raises InvalidArgument INVALID_FIELD for one together
    with times that would be others when the command is repeated.
    """
    if given and times.relative:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "--id is for repeating the command, and a time that begins with + is another one then",
            hint="write the times in full, as in 2027-01-31T09:00Z",
        )
    return validate.require_uuid(given or str(uuid.uuid4()), "id")


def _provider(clients: Clients, cloud_id: str) -> str:
    return SpiffeId.parse(clients.manager(cloud_id).peer.endpoint.spiffe_id).domain


def _class_and_amount(text: str) -> tuple[str, int]:
    name, _, amount = text.rpartition("=")
    if not (name and amount.isascii() and amount.isdigit() and len(amount) < 19):
        raise errors.InvalidArgument(
            "INVALID_FIELD", f"{text!r} is no amount of a class", hint="write public_ipv4=1"
        )
    return name, int(amount)


def _moment(text: str, option: str, origin: datetime) -> datetime:
    """The moment of "2027-01-31T09:00Z", or of "+90m" after the origin."""
    if text.startswith("+"):
        try:
            return origin + timedelta(seconds=round(units.parse_duration(text[1:])))
        except OverflowError as error:
            raise _no_moment(text, option) from error
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise _no_moment(text, option) from error
    if found.tzinfo is None:
        raise _no_moment(text, option)
    return found.astimezone(UTC).replace(microsecond=0)


def _no_moment(text: str, option: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD",
        f"{option}: {text!r} is no moment",
        hint="write 2027-01-31T09:00Z with its offset from UTC, or +90m",
    )
