"""`watari plan`: what automatic placement wants to move and has moved, and why."""

import statistics
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from watari import errors, units
from watari.cli import follow, views
from watari.cli.exits import CALL_EPILOG, CommandFailed, Exit
from watari.cli.invocation import MACHINES_PANEL, Invocation, command
from watari.cli.output import Column, facts, table
from watari.cli.plain import plain
from watari.cli.policy import Acting
from watari.v1 import broker_pb2

FINAL_STATES = frozenset(
    {
        broker_pb2.PLAN_STATE_DONE,
        broker_pb2.PLAN_STATE_FAILED,
        broker_pb2.PLAN_STATE_SUPERSEDED,
    }
)

_app = typer.Typer(no_args_is_help=True, help="Show, approve and cancel what policies plan.")

_MEASURED = {
    "transfer_bytes": "bytes",
    "duration_seconds": "time",
    "downtime_seconds": "standstill",
}

_Id = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's UUID.")]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="plan", rich_help_panel=MACHINES_PANEL)


@command(_app, "list", epilog=CALL_EPILOG)
def list_plans(
    invocation: Invocation,
    policy: Annotated[str, typer.Option(metavar="POLICY", help="Only this policy's.")] = "",
    live: Annotated[bool, typer.Option("--live", help="Only those that have not ended.")] = False,
    acting: Acting = "",
) -> None:
    """List plans, newest first."""
    found = invocation.clients.broker(acting).plans(policy_id=policy, live_only=live)
    rows = [plain(plan) for plan in found]
    invocation.output.rows(rows, _COLUMNS, "There is no plan.")
    if told := calibration(rows):
        invocation.output.note(told)


@command(_app, "show", epilog=CALL_EPILOG)
def show(invocation: Invocation, plan_id: _Id, acting: Acting = "") -> None:
    """Show a plan: each move with what it saves, what it costs, and why."""
    _show(invocation, plain(invocation.clients.broker(acting).plan(plan_id)))


@command(_app, "approve", epilog=CALL_EPILOG)
def approve(
    invocation: Invocation,
    plan_id: _Id,
    generation: Annotated[
        int | None,
        typer.Option(metavar="N", help="The generation that you looked at; the present otherwise."),
    ] = None,
    acting: Acting = "",
) -> None:
    """Let a recommended plan go ahead. It begins when the broker decides the same once more."""
    broker = invocation.clients.broker(acting)
    looked_at = broker.plan(plan_id).generation if generation is None else generation
    _show(invocation, plain(broker.approve_plan(plan_id, looked_at)))


@command(_app, "cancel", epilog=CALL_EPILOG)
def cancel(invocation: Invocation, plan_id: _Id, acting: Acting = "") -> None:
    """Cancel what has not begun of a plan.

    The policy goes on and may plan it again: change or delete it to have it otherwise.
    """
    _show(invocation, plain(invocation.clients.broker(acting).cancel_plan(plan_id)))


@command(_app, "watch", epilog=CALL_EPILOG)
def watch(invocation: Invocation, plan_id: _Id, acting: Acting = "") -> None:
    """Watch a plan to its end.

    With -o json one object a line for every change. Ctrl-C stops the watching only.
    """
    broker, output = invocation.clients.broker(acting), invocation.output
    watching = follow.Watching(invocation.clock, invocation.clients.settings.lost_seconds_max)
    last, told = broker_pb2.Plan(), dict[str, str]()
    with follow.detaching_on_interrupt(plan_id, "plan"):
        for last in follow.reopening(
            lambda: broker.watch_plan(plan_id),
            lambda plan: plan.state in FINAL_STATES,
            watching,
            broker.peer.title,
        ):
            row = plain(last)
            output.event(row)
            for move in row["moves"]:
                if told.get(move["vm_id"]) != move["state"]:
                    told[move["vm_id"]] = move["state"]
                    output.note(f"{_route(move)}: {move['state']}")
    _show(invocation, plain(last))
    if last.state == broker_pb2.PLAN_STATE_FAILED:
        problems = "; ".join(move.problem for move in last.moves if move.problem)
        error = errors.FailedPrecondition("MIGRATION_STATE", problems, hint="watari plan list")
        raise CommandFailed(error, Exit.FAILED, title="A move failed")


def _show(invocation: Invocation, row: dict[str, Any]) -> None:
    about = [
        ("plan", row["plan_id"]),
        ("policy", f"{row['policy_id']} of {row['tenant']} of {row['tenant_domain']}"),
        ("state", row["state"]),
        ("automation", row["automation"]),
        ("approved by", row["approved_by"]),
        ("made", views.when(row["created_at"])),
        ("ended", views.when(row["ended_at"])),
        ("generation", str(row["generation"])),
    ]
    parts: list[Any] = [facts(about)]
    if row["moves"]:
        parts += ["", table(row["moves"], _MOVES)]
    for move in row["moves"]:
        parts += ["", facts(_words(move))]
    invocation.output.record(row, *parts)


def _words(move: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (_name(move), _route(move)),
        ("why", move["reason"]),
        ("otherwise", move["counterfactual"]),
        ("takes", _takes(move)),
        ("took", _took(move)),
        ("migration", move["migration_id"]),
        ("problem", move["problem"]),
    ]


def _takes(move: dict[str, Any]) -> str:
    """Such as "1.0 GiB on the wire, egress 2.00 JPY, 12 s of standstill"."""
    parts = [f"{views.size(move['transfer_bytes']) or '0 B'} on the wire"]
    parts += [
        f"{title} {views.price(move[name])}"
        for name, title in (("egress", "egress"), ("flat", "flat"), ("overlap", "twice kept"))
        if move[name] and float(move[name]["amount"])
    ]
    if move["duration_seconds"]:
        parts.append(units.format_duration(move["duration_seconds"]))
    if move["downtime_seconds"]:
        parts.append(f"{units.format_duration(move['downtime_seconds'])} of standstill")
    return ", ".join(parts)


def _took(move: dict[str, Any]) -> str:
    """Such as "1.1 GiB on the wire, 95 s, 14 s of standstill"; empty until it is done."""
    outcome = move["outcome"]
    if not outcome:
        return ""
    parts = [units.format_duration(outcome["duration_seconds"])]
    if outcome["transfer_bytes"]:
        parts.insert(0, f"{views.size(outcome['transfer_bytes'])} on the wire")
    if outcome["downtime_seconds"]:
        parts.append(f"{units.format_duration(outcome['downtime_seconds'])} of standstill")
    return ", ".join(parts)


def calibration(plans: Sequence[dict[str, Any]]) -> str:
    """How what moves took compares with what was estimated; empty while none is done."""
    ratios: dict[str, list[float]] = {title: [] for title in _MEASURED.values()}
    done = [move for plan in plans for move in plan["moves"] if move["outcome"]]
    for move in done:
        for name, title in _MEASURED.items():
            expected, actual = float(move[name] or 0), float(move["outcome"][name] or 0)
            if expected > 0 and actual > 0:
                ratios[title].append(actual / expected)
    told = [
        f"{statistics.median(each):.2g} times the {title} ({min(each):.2g} to {max(each):.2g})"
        for title, each in ratios.items()
        if each
    ]
    moves = "1 move" if len(done) == 1 else f"{len(done)} moves"
    return f"{moves} took, in the middle, {', '.join(told)} that was estimated." if told else ""


def _name(move: dict[str, Any]) -> str:
    name: str = move["vm_name"] or move["vm_id"]
    return name


def _route(move: dict[str, Any]) -> str:
    return f"{_name(move)} from {move['from_cloud']} to {move['to_cloud']}"


def _summary(row: dict[str, Any]) -> str:
    first, *more = row["moves"] or [None]
    if first is None:
        return ""
    return _route(first) + (f", and {len(more)} more" if more else "")


_COLUMNS = (
    Column("PLAN", lambda one: one["plan_id"]),
    Column("POLICY", lambda one: one["policy_id"]),
    Column("TENANT", lambda one: one["tenant"], optional=True),
    Column("STATE", lambda one: one["state"]),
    Column("MOVES", _summary),
    Column("MADE", lambda one: views.when(one["created_at"])),
    Column("APPROVED BY", lambda one: one["approved_by"], optional=True),
)
_MOVES = (
    Column("MACHINE", _name),
    Column("FROM", lambda one: one["from_cloud"]),
    Column("TO", lambda one: one["to_cloud"]),
    Column("STATE", lambda one: one["state"]),
    Column("CAUSE", lambda one: views.words(one["cause"])),
    Column("SAVES AN HOUR", lambda one: views.price(one["hourly_saving"]), right=True),
    Column("EXPECTED", lambda one: views.price(one["saving"]), right=True),
    Column("COSTS", lambda one: views.price(one["move_cost"]), right=True),
)
