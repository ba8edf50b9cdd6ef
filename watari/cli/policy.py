"""`watari policy`: what automatic placement is after, and under which delegation it acts."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from watari import errors, standing, units
from watari.cli import lookup, views
from watari.cli.broker_client import Broker
from watari.cli.constraints import NO_CONSTRAINTS, Constraints
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain
from watari.cli.policy_options import DEFAULT_POLICY, PolicyOptions
from watari.identity import Identity, Role, SpiffeId
from watari.standing import Scope
from watari.v1 import broker_pb2, common_pb2

WINDOW_SECONDS = 24 * 3600
"""In which --moves is counted, by the broker and by managers."""

_PANEL = "Delegation"

_app = typer.Typer(no_args_is_help=True, help="Let the broker move machines by itself.")

Acting = Annotated[
    str,
    typer.Option(
        "--as", metavar="CLOUD", help="Ask and sign as the user of this cloud, of several."
    ),
]
_Name = Annotated[str, typer.Argument(metavar="POLICY", help="Its name.")]
_Tenant = Annotated[
    str,
    typer.Option(metavar="TENANT", help="Whose machines; for operators, who act for tenants."),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="policy", rich_help_panel=MACHINES_PANEL)


def _delegation(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)


@command(_app, "put", epilog=CALL_EPILOG)
def put(
    invocation: Invocation,
    name: _Name,
    tenant: _Tenant = "",
    sources: Annotated[
        list[str] | None,
        _delegation("--from", "CLOUD", "Machines may leave this cloud; every cloud otherwise."),
    ] = None,
    destinations: Annotated[
        list[str] | None,
        _delegation("--to", "CLOUD", "Machines may go to this cloud; every cloud otherwise."),
    ] = None,
    machines: Annotated[
        list[str] | None,
        _delegation("--vm", "VM", "Only this machine, by name or UUID; all otherwise."),
    ] = None,
    moves: Annotated[
        int,
        _delegation(
            "--moves",
            "COUNT",
            "At most so many moves of one machine in 24 hours; the last of several is kept for "
            "evacuations.",
        ),
    ] = 2,
    expires: Annotated[
        str, _delegation("--for", "TIME", "How long the broker may act; 35d at most.")
    ] = "30d",
    options: PolicyOptions = DEFAULT_POLICY,
    constraints: Constraints = NO_CONSTRAINTS,
    acting: Acting = "",
) -> None:
    """Set a policy, in place of one of its name, and sign that the broker may act for it.

    The delegation names the broker, the tenant, the clouds and how often; clouds check all of it
    themselves. It ends with its time, or with the policy.
    """
    clients = invocation.clients
    broker, signer = clients.broker(acting), clients.identity(acting)
    whose = Whose.of(signer.spiffe_id, tenant)
    scope = Scope(
        whose.domain,
        whose.name,
        sorted(set(sources or clients.cloud_ids)),
        sorted(set(destinations or clients.cloud_ids)),
        moves,
        WINDOW_SECONDS,
        [lookup.vm(clients, vm, None)[1].vm_id for vm in machines or ()],
    )
    policy = options.policy(name, moves)
    policy.tenant, policy.tenant_domain = whose.name, whose.domain
    policy.requirements.CopyFrom(constraints.requirements(None))
    policy.weights.CopyFrom(constraints.ranking())
    present = _find(broker.policies(), name, whose)
    policy.generation = present.generation if present is not None else 0
    document = _signed(invocation, signer, broker, scope, expires)
    request = broker_pb2.PutPolicyRequest(
        request_id=str(uuid.uuid4()), policy=policy, delegation=document
    )
    _show(invocation, plain(broker.put_policy(request)))


@command(_app, "renew", epilog=CALL_EPILOG)
def renew(
    invocation: Invocation,
    name: _Name,
    tenant: _Tenant = "",
    expires: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long from now; 35d at most.")
    ] = "30d",
    acting: Acting = "",
) -> None:
    """Sign a policy's delegation again, as it is, with another end."""
    broker, signer = invocation.clients.broker(acting), invocation.clients.identity(acting)
    policy = _require(broker, name, _whose(invocation, tenant, acting))
    said = policy.delegation
    scope = Scope(
        said.tenant_domain,
        said.tenant,
        said.from_clouds,
        said.to_clouds,
        said.moves_max,
        said.window_seconds,
        said.vm_ids,
    )
    document = _signed(invocation, signer, broker, scope, expires)
    request = broker_pb2.PutPolicyRequest(
        request_id=str(uuid.uuid4()), policy=policy, delegation=document
    )
    _show(invocation, plain(broker.put_policy(request)))


@command(_app, "list", epilog=CALL_EPILOG)
def list_policies(invocation: Invocation, acting: Acting = "") -> None:
    """List policies: a tenant its own, an operator those of its provider's tenants."""
    rows = [plain(policy) for policy in invocation.clients.broker(acting).policies()]
    invocation.output.rows(rows, _COLUMNS, "There is no policy.")


@command(_app, "show", epilog=CALL_EPILOG)
def show(invocation: Invocation, name: _Name, tenant: _Tenant = "", acting: Acting = "") -> None:
    """Show a policy, and why machines stay where they are."""
    broker = invocation.clients.broker(acting)
    _show(invocation, plain(_require(broker, name, _whose(invocation, tenant, acting))))


@command(_app, "delete", epilog=CALL_EPILOG)
def delete(invocation: Invocation, name: _Name, tenant: _Tenant = "", acting: Acting = "") -> None:
    """Delete a policy and its delegation. What runs is seen to its end, nothing else begins."""
    broker, whose = invocation.clients.broker(acting), _whose(invocation, tenant, acting)
    held = _require(broker, name, whose)
    broker.delete_policy(
        broker_pb2.DeletePolicyRequest(
            policy_id=name, tenant=whose.name, tenant_domain=whose.domain
        )
    )
    invocation.output.record(plain(held))
    invocation.output.say(f"Deleted: {name}. The broker's delegation is gone with it.")
    invocation.output.say(
        f"To be sure of clouds too: watari delegation revoke {held.delegation.delegation_id}"
    )


class Whose:
    """The tenant that a command is about."""

    def __init__(self, domain: str, name: str) -> None:
        self.domain = domain
        self.name = name

    @classmethod
    def of(cls, caller: SpiffeId, tenant: str) -> "Whose":
        """The one that is named, or the caller. Raises InvalidArgument for an operator's none."""
        if caller.role is Role.OPERATOR and not tenant:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"{caller} is no tenant",
                hint="say whose machines it is about: --tenant TENANT",
                field="tenant",
            )
        return cls(caller.domain, tenant or caller.name)


def _whose(invocation: Invocation, tenant: str, acting: str) -> Whose:
    return Whose.of(invocation.clients.identity(acting).spiffe_id, tenant)


def _signed(
    invocation: Invocation, signer: Identity, broker: Broker, scope: Scope, expires: str
) -> common_pb2.SignedDocument:
    life = round(units.parse_duration(expires))
    if not 1 <= life <= standing.LIFE_SECONDS_MAX:
        raise errors.InvalidArgument(
            "INVALID_FIELD", f"--for: {expires} does not do", hint="at most 35d", field="for"
        )
    now = invocation.clock.now()
    return standing.sign(signer, now, scope, delegate=broker.spiffe_id, life_seconds=life)


def _find(
    policies: Sequence[broker_pb2.Policy], name: str, whose: Whose
) -> broker_pb2.Policy | None:
    wanted = (whose.domain, whose.name, name)
    return next(
        (one for one in policies if (one.tenant_domain, one.tenant, one.policy_id) == wanted), None
    )


def _require(broker: Broker, name: str, whose: Whose) -> broker_pb2.Policy:
    found = _find(broker.policies(), name, whose)
    if found is None:
        raise errors.NotFound(
            "RECORD_NOT_FOUND", f"there is no policy {name!r}", hint="watari policy list"
        )
    return found


def _show(invocation: Invocation, row: dict[str, Any]) -> None:
    seen, said = row["evaluation"], row["delegation"]
    about = [
        ("policy", row["policy_id"]),
        ("tenant", f"{row['tenant']} of {row['tenant_domain']}"),
        ("objective", row["objective"]),
        ("automation", row["automation"]),
        ("from", ", ".join(said["from_clouds"])),
        ("to", ", ".join(said["to_clouds"])),
        ("machines", f"{len(said['vm_ids'])} named" if said["vm_ids"] else "all of the tenant's"),
        ("moves", f"at most {said['moves_max']} of each in {said['window_seconds'] // 3600} h"),
        ("delegated by", row["delegated_by"]),
        ("delegation", said["delegation_id"]),
        ("until", views.when(said["expires_at"])),
        ("generation", str(row["generation"])),
        ("evaluated", views.when(seen["at"]) if seen else "not yet"),
    ]
    about += [("problem", problem) for problem in (seen or {}).get("problems", ())]
    parts: list[Any] = [facts(about)]
    if seen and seen["staying"]:
        parts += ["", table(seen["staying"], _STAYING)]
    invocation.output.record(row, *parts)


def _seen(row: dict[str, Any], name: str) -> Any:
    return row["evaluation"][name] if row["evaluation"] else None


_COLUMNS = (
    Column("POLICY", lambda one: one["policy_id"]),
    Column("TENANT", lambda one: one["tenant"]),
    Column("OBJECTIVE", lambda one: one["objective"]),
    Column("AUTOMATION", lambda one: one["automation"]),
    Column("MACHINES", lambda one: str(_seen(one, "machines") or 0), right=True),
    Column("EVALUATED", lambda one: views.when(_seen(one, "at"))),
    Column("UNTIL", lambda one: views.when(one["delegation"]["expires_at"])),
    Column("PROBLEM", lambda one: "; ".join(_seen(one, "problems") or ())),
)
_STAYING = (
    Column("STAYS", lambda one: one["vm_name"] or one["vm_id"]),
    Column("IN", lambda one: one["cloud_id"]),
    Column("FOR", lambda one: one["rule"]),
    Column("BETTER", lambda one: one["to_cloud"]),
    Column("WHY", lambda one: one["reason"]),
    Column("MOVES WHEN", lambda one: one["counterfactual"], optional=True),
)
