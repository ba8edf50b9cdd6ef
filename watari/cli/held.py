"""Room that the broker holds for a machine on its user's word: the mandate, and what came of it."""

import uuid
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from watari import mandate, units
from watari.cli.broker_client import Broker
from watari.cli.output import Column, table
from watari.clock import Clock
from watari.identity import Identity
from watari.v1 import broker_pb2, common_pb2, manager_pb2


def mandate_for(
    broker: Broker,
    signer: Identity,
    clock: Clock,
    vm: manager_pb2.Vm,
    request: broker_pb2.MigrateRequest,
) -> common_pb2.SignedDocument | None:
    """Lets the broker hold room for a machine at the clouds that it knows; those that fit now come
    first. None when it knows no other: then it says so when it is asked to migrate.
    """
    wanted = broker_pb2.Requirements()
    wanted.CopyFrom(request.requirements)
    if not wanted.HasField("resources"):
        wanted.resources.CopyFrom(vm.resources)
    answer = broker.place(
        broker_pb2.PlaceRequest(
            request_id=str(uuid.uuid4()),
            requirements=wanted,
            weights=request.weights,
            preferred_regions=request.preferred_regions,
            preferred_providers=request.preferred_providers,
            source_cloud=request.from_cloud,
            candidates_max=mandate.CLOUDS_MAX,
        )
    )
    fitting = [each.cloud_id for each in answer.candidates]
    known = dict.fromkeys([*fitting, *(each.cloud_id for each in answer.rejections)])
    to_clouds = [one for one in known if one and one != request.from_cloud][: mandate.CLOUDS_MAX]
    if not to_clouds:
        return None
    subject = mandate.Subject(
        migration_id=request.migration_id,
        vm_id=vm.vm_id,
        from_cloud=request.from_cloud,
        tenant_domain=vm.tenant_domain or signer.spiffe_id.domain,
        tenant=vm.tenant,
        resources=vm.resources,
    )
    return mandate.sign(
        signer, clock.now(), subject, delegate=broker.spiffe_id, to_clouds=to_clouds
    )


def shown(attempts: Sequence[dict[str, Any]]) -> list[RenderableType]:
    """The clouds that were asked to hold room, for people."""
    if not attempts:
        return []
    columns = [
        Column("ASKED", lambda one: one["cloud_id"]),
        Column("ANSWER", _answer),
    ]
    return ["", table(attempts, columns)]


def _answer(attempt: dict[str, Any]) -> str:
    problem = attempt["problem"]
    if problem is None:
        return "holds room"
    if attempt["refused_before"] is None:
        return str(problem["message"])
    age = units.format_duration(float(attempt["refused_before"]))
    return f"not asked, as {age} ago: {problem['message']}"
