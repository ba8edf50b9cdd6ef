"""`watari quota`: what tenants may consume of a cloud, and what they do."""

import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

import typer

from watari import errors, money, units
from watari.cli import lookup, views
from watari.cli.exits import CALL_EPILOG
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain
from watari.v1 import common_pb2, manager_pb2

ALL = "*"
NONE = "none"
"""Instead of an amount: the class is not limited any more."""

_SHORT = {"memory": "memory_bytes", "disk": "disk_bytes"}
_BUDGETS: tuple[Literal["budget_month", "budget_month_soft"], ...] = (
    "budget_month",
    "budget_month_soft",
)
_FIELDS = ("vcpus", "memory_bytes", "disk_bytes")

_app = typer.Typer(no_args_is_help=True, help="Show and set what tenants may consume.")

_CloudOption = Annotated[
    str | None,
    typer.Option("--cloud", metavar="CLOUD", help="The cloud, where there are several."),
]
_DomainOption = Annotated[
    str,
    typer.Option(
        "--domain",
        metavar="DOMAIN",
        help="Whose tenant it is: the cloud's own provider's, unless this says otherwise; "
        "* with the tenant * is everybody's.",
    ),
]
_TenantArgument = Annotated[
    str,
    typer.Argument(metavar="TENANT", help="Its name; * is every tenant without a quota of its own"),
]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="quota", rich_help_panel=FEDERATION_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_quotas(
    invocation: Invocation,
    cloud: Annotated[
        str | None, typer.Option(metavar="CLOUD", help="Only this cloud; all are asked otherwise.")
    ] = None,
) -> None:
    """List what tenants use of clouds, and how much they may. A tenant sees its own."""
    found, missed = lookup.gather(
        invocation.clients,
        cloud,
        lambda manager: [{"cloud_id": manager.cloud_id} | plain(one) for one in manager.quotas()],
    )
    if invocation.output.is_json:
        invocation.output.rows(found, (), "")
    else:
        lines = [line for row in found for line in _lines(row)]
        invocation.output.rows(lines, _COLUMNS, "Nothing is used, and nothing is limited.")
    if missed:
        raise missed


@command(_app, "set", epilog=CALL_EPILOG)
def set_quota(
    invocation: Invocation,
    tenant: _TenantArgument,
    limits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CLASS=HARD[/SOFT]...",
            help="As in vcpus=16, memory=64GiB/48GiB, machines=10, public_ipv4=0; none instead of "
            "an amount limits no more.",
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="AMOUNT[/SOFT]",
            help="Spending a calendar month, as in '5000/4000 JPY'; none for no budget.",
        ),
    ] = "",
    domain: _DomainOption = "",
    cloud: _CloudOption = None,
) -> None:
    """Set limits of a tenant. Beyond HARD nothing is admitted, beyond SOFT there is a warning; what
    is there already stays. Classes that are not named keep their limits.
    """
    manager = invocation.clients.manager(lookup.only(invocation.clients, cloud))
    known = manager.quotas(domain, tenant)
    quota = manager_pb2.Quota(tenant_domain=domain, tenant=tenant)
    if known:
        quota.generation = known[0].generation
        quota.hard.CopyFrom(known[0].hard)
        quota.soft.CopyFrom(known[0].soft)
        for name in _BUDGETS:
            if known[0].HasField(name):
                getattr(quota, name).CopyFrom(getattr(known[0], name))
    for text in limits or ():
        _apply(quota, text)
    if budget:
        _budget(quota, budget)
    request = manager_pb2.PutQuotaRequest(request_id=str(uuid.uuid4()), quota=quota)
    _show(invocation, {"cloud_id": manager.cloud_id} | plain(manager.put_quota(request)))


@command(_app, "delete", epilog=CALL_EPILOG)
def delete_quota(
    invocation: Invocation,
    tenant: _TenantArgument,
    domain: _DomainOption = "",
    cloud: _CloudOption = None,
) -> None:
    """Delete the quota of a tenant: those of its provider and of the cloud hold instead."""
    manager = invocation.clients.manager(lookup.only(invocation.clients, cloud))
    manager.delete_quota(domain, tenant)
    (left,) = manager.quotas(domain, tenant)
    _show(invocation, {"cloud_id": manager.cloud_id} | plain(left))


def _show(invocation: Invocation, row: dict[str, Any]) -> None:
    about = [("cloud", row["cloud_id"]), ("tenant", _tenant(row))]
    titles = {"spent_month": "spent this month", "effective_budget_month": "budget"}
    titles["effective_budget_month_soft"] = "soft budget"
    about += [(title, views.price(row[name])) for name, title in titles.items() if row[name]]
    invocation.output.record(row, facts(about), "", table(_lines(row), _COLUMNS[2:]))


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for every class that is used or limited."""
    used, hard = _amounts(row["used"]), _amounts(row["effective_hard"])
    soft = _amounts(row["effective_soft"])
    own = _amounts(row["hard"]) | _amounts(row["soft"])
    names = sorted({*used, *hard, *soft}, key=lambda name: (name not in _FIELDS, name))
    return [
        {"cloud_id": row["cloud_id"], "tenant": _tenant(row), "resource": name}
        | {"used": used.get(name, 0), "soft": soft.get(name), "hard": hard.get(name)}
        | {"from": "" if hard.get(name) is soft.get(name) is None or name in own else "default"}
        for name in names
    ]


def _amounts(resources: dict[str, Any] | None) -> dict[str, int]:
    shown = resources or {}
    amounts = {name: shown[name] for name in _FIELDS if shown.get(name)}
    return amounts | dict(shown.get("other", {}))


def _tenant(row: dict[str, Any]) -> str:
    return f"{row['tenant']} of {row['tenant_domain']}"


def _amount(name: str, amount: int | None) -> str:
    if amount is None:
        return "-"
    return views.size(amount) or "0" if name.endswith("_bytes") else str(amount)


def _apply(quota: manager_pb2.Quota, text: str) -> None:
    """One CLASS=HARD/SOFT."""
    name, equals, amounts = text.partition("=")
    if not (name and equals and amounts):
        raise _wrong(text, "write CLASS=HARD or CLASS=HARD/SOFT, as in vcpus=16/12")
    hard, _, soft = amounts.partition("/")
    name = _SHORT.get(name, name)
    for limits, amount in ((quota.hard, hard), (quota.soft, soft)):
        _limit(limits, name, amount or NONE, text)


def _budget(quota: manager_pb2.Quota, text: str) -> None:
    """AMOUNT[/SOFT] CURRENCY, or none."""
    for name in _BUDGETS:
        quota.ClearField(name)
    if text == NONE:
        return
    amounts, _, currency = text.rpartition(" ")
    for name, amount in zip(_BUDGETS, amounts.split("/", 1), strict=False):
        try:
            parsed = money.from_decimal(Decimal(amount), currency)
        except (ArithmeticError, errors.InvalidArgument) as error:
            raise _wrong(text, "write AMOUNT CURRENCY, as in '5000/4000 JPY'") from error
        getattr(quota, name).CopyFrom(parsed)


def _limit(limits: common_pb2.Resources, name: str, amount: str, text: str) -> None:
    if name not in _FIELDS:
        limits.other.pop(name, None)
        if amount != NONE:
            limits.other[name] = _number(amount, text)
        return
    number = 0
    if amount != NONE:
        number = units.parse_bytes(amount) if name.endswith("_bytes") else _number(amount, text)
        if not 0 < number < (2**32 if name == "vcpus" else 2**63):
            raise _wrong(text, "at least 1; machines=0 admits nothing at all")
    setattr(limits, name, number)


def _number(amount: str, text: str) -> int:
    if not (amount.isascii() and amount.isdigit()):
        raise _wrong(text, "a whole number, or none")
    return int(amount[:19])


def _wrong(text: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("INVALID_FIELD", f"{text!r} is no limit", hint=hint)


_COLUMNS = (
    Column("CLOUD", lambda one: one["cloud_id"]),
    Column("TENANT", lambda one: one["tenant"]),
    Column("RESOURCE", lambda one: one["resource"]),
    Column("USED", lambda one: _amount(one["resource"], one["used"]), right=True),
    Column("SOFT", lambda one: _amount(one["resource"], one["soft"]), right=True),
    Column("HARD", lambda one: _amount(one["resource"], one["hard"]), right=True),
    Column("FROM", lambda one: one["from"]),
)
