"""Reshaping inventories: a resource class gets another name, or units of it become other classes.

All of it is one transaction, in which nobody else takes or gives back anything: hosts' shapes,
allocations, what is written down of machines and reservations, quotas, and what is counted as
taken. In the end it is compared: every consumer takes as much as before, of the same host, and no
class is taken beyond what there is of it. Otherwise nothing has changed.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy.engine import Connection

from manager import audit, capacity, inventories, reshape_checks, reshape_rows, shape_rows, shapes
from manager.accounting import rows as ledger_rows
from manager.inventory import POOL, Amounts, HostView
from manager.quotas import rows as quota_rows
from manager.reshape_rows import Taken
from manager.settings import Settings
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

INVENTORIES_MAX = 1_000
"""That are told in an answer; the contract's number."""


class _TakenBack(Exception):
    """Ends a dry run, with all that it did."""


@dataclass(frozen=True)
class _Outcome:
    """What was done."""

    consumers: int = 0
    quotas: int = 0
    changed: bool = True


_NOTHING = _Outcome(changed=False)


class Reshaping:
    """Renames and splits the resource classes of one cloud. From any thread."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        self._agents = settings.agents
        self._shared = settings.pool
        self._quote_micros = settings.prices.quote_ttl_seconds * 1_000_000
        self._store = store
        self._clock = clock

    def reshape(
        self, request: manager_pb2.ReshapeInventoryRequest, caller: SpiffeId
    ) -> manager_pb2.ReshapeInventoryResponse:
        """Do what is asked, or only tell what would come of it. What is so already stays as it is.

        Raises NotFound CLASS_NOT_FOUND; FailedPrecondition CLASS_EXISTS, CLASS_LIMITED and
        CLASS_PRICED; Exhausted RESHAPE_OVERCOMMITS; Conflict GENERATION_CONFLICT;
        InvalidArgument INVALID_FIELD.
        """
        with suppress(_TakenBack), self._store.write() as connection:
            outcome = self._done(connection, request)
            answer = self._answer(connection, request, outcome)
            if request.dry_run:
                raise _TakenBack
            if outcome.changed:
                self._note(connection, request, outcome, caller)
        return answer

    def _done(
        self, connection: Connection, request: manager_pb2.ReshapeInventoryRequest
    ) -> _Outcome:
        if request.HasField("rename_to"):
            return self._rename(connection, request.resource_class, request.rename_to)
        return self._split(connection, request.resource_class, request.split)

    def _rename(self, connection: Connection, old: str, new: str) -> _Outcome:
        known, now = self._known(connection), shape_rows.every(connection)
        retired = dict(now[POOL].renamed)
        if retired.get(old) == new and old not in known:
            return _NOTHING
        reshape_checks.require_there(old, known)
        if retired.get(new) == old:
            del retired[new]  # It gets its earlier name back.
        limited = [each.limits for each in quota_rows.every(connection).values()]
        named = {name for each in limited for name in (*each.hard, *each.soft)}
        reshape_checks.require_new(new, known | named, retired)
        self._require_priced(connection, old, new)
        before, taken = self._views(connection), reshape_rows.taken_of(connection, [old], None)
        generations = shape_rows.generations(connection)
        for host_id, shape in now.items():
            shape_rows.swap(connection, host_id, generations[host_id], shape.renaming(old, new))
        for consumer, of_class in taken.items():
            change = partial(shapes.renamed, old=old, new=new)
            reshape_rows.rewrite(connection, consumer, of_class, change)
        quotas = reshape_rows.rename_in_quotas(connection, old, new)
        self._settle(connection, taken, dict.fromkeys(taken, new), [old, new], None)
        for host_id, view in self._views(connection).items():
            had = {new: before[host_id].capacity.get(old, 0)}
            reshape_checks.require_room(view, [new], had)
        return _Outcome(len(taken), quotas)

    def _split(self, connection: Connection, name: str, split: manager_pb2.ClassSplit) -> _Outcome:
        host_id, units = split.host_id, {key: each for key, each in split.units.items() if each}
        views = self._views(connection)
        if host_id not in views:
            raise errors.NotFound(
                "CLASS_NOT_FOUND",
                f"there is no host {host_id!r}",
                hint=f"one of {', '.join(sorted(views))}",
                resource=name,
            )
        view, shape = views[host_id], shape_rows.every(connection)[host_id]
        family = shape.family(name)
        reshape_checks.require_whole(name, shape)
        reshape_checks.require_there(name, view.total)
        others = _elsewhere(views, host_id).union(view.total)
        others |= reshape_rows.classes_taken(connection, host_id)
        for part in units.keys() - family:
            reshape_checks.require_new(part, others, shape.renamed)
        taken = reshape_rows.taken_of(connection, family, host_id)
        moves = self._moves(taken, name, split)
        after = shape.splitting(name, units)
        if after == shape and not moves:
            return _NOTHING
        generation = shape_rows.generations(connection)[host_id]
        reshape_checks.require_generation(host_id, split.generation, generation)
        for part in sorted(units.keys()):
            self._require_limited(connection, name, part)
            self._require_priced(connection, name, part)
        _require_enough(view, name, family, units)
        staying = [taken[consumer] for consumer in taken.keys() - moves.keys()]
        reshape_checks.require_left(
            host_id,
            family - units.keys() - {name},
            ({each: amount for each, (_, amount) in of.items()} for of in staying),
        )
        shape_rows.swap(connection, host_id, generation, after)
        for consumer, to in moves.items():
            change = partial(shapes.moved, family=family, to=to)
            reshape_rows.rewrite(connection, consumer, taken[consumer], change)
        self._settle(connection, taken, moves, family | units.keys(), host_id)
        reshape_checks.require_room(self._views(connection)[host_id], family | units.keys(), {})
        return _Outcome(len(moves))

    def _settle(
        self,
        connection: Connection,
        before: Taken,
        moves: Mapping[tuple[str, str], str],
        classes: Collection[str],
        host_id: str | None,
    ) -> None:
        """Count anew, and compare: who was moved takes all of it of that class, of the same host,
        everybody else what it took. Raises Internal INTERNAL.
        """
        capacity.open_pool(connection, self._shared)
        wanted = dict(before)
        for consumer, to in moves.items():
            ((where, _), *_) = before[consumer].values()
            wanted[consumer] = {to: (where, sum(each for _, each in before[consumer].values()))}
        if reshape_rows.taken_of(connection, classes, host_id) != wanted:
            raise errors.Internal("INTERNAL", "allocations would not add up after the reshape")

    @staticmethod
    def _moves(
        taken: Taken, name: str, split: manager_pb2.ClassSplit
    ) -> dict[tuple[str, str], str]:
        """The consumers that are to take another class than they do. Raises InvalidArgument."""
        by_id = {consumer[1]: consumer for consumer in taken}
        for key in split.moves:
            if key not in by_id:
                raise errors.InvalidArgument(
                    "INVALID_FIELD",
                    f"split.moves.{key}: takes nothing of {name!r} on {split.host_id}",
                    hint="name machines and reservations that are there",
                    field="split.moves",
                )
        wanted = {by_id[key]: to for key, to in split.moves.items()}
        return {consumer: to for consumer, to in wanted.items() if {*taken[consumer]} != {to}}

    def _views(self, connection: Connection) -> dict[str, HostView]:
        """Every host and the pool."""
        hosts = capacity.views(connection, self._agents)
        pool = capacity.pool(connection, self._shared)
        return {view.host_id: view for view in (*hosts, pool)}

    def _known(self, connection: Connection) -> frozenset[str]:
        """Every class that there is or of which something is taken."""
        views = self._views(connection).values()
        return frozenset(name for view in views for name in view.total).union(
            reshape_rows.classes_taken(connection),
            shapes.every(shape_rows.every(connection).values()),
        )

    def _require_limited(self, connection: Connection, old: str, new: str) -> None:
        limits = {
            f"{tenant.name} of {tenant.domain}": row.limits
            for tenant, row in quota_rows.every(connection).items()
        }
        reshape_checks.require_limited(old, new, limits)

    def _require_priced(self, connection: Connection, old: str, new: str) -> None:
        """A quote that was issued until now is honoured as long as it lasts."""
        try:
            book = ledger_rows.book(connection)
        except errors.InvalidArgument:
            return  # Nothing was ever charged.
        since = micros(self._clock.now()) - self._quote_micros
        sheets = reshape_checks.in_use(book, since, reshape_rows.pinned(connection))
        reshape_checks.require_priced(old, new, sheets)

    def _answer(
        self,
        connection: Connection,
        request: manager_pb2.ReshapeInventoryRequest,
        outcome: _Outcome,
    ) -> manager_pb2.ReshapeInventoryResponse:
        names = {request.resource_class, request.rename_to, *request.split.units}
        found = inventories.page(
            connection, self._agents, self._shared, after="", limit=INVENTORIES_MAX
        )
        return manager_pb2.ReshapeInventoryResponse(
            changed=outcome.changed,
            consumers=outcome.consumers,
            quotas=outcome.quotas,
            inventories=[each for each in found if names & each.total.other.keys()],
        )

    def _note(
        self,
        connection: Connection,
        request: manager_pb2.ReshapeInventoryRequest,
        outcome: _Outcome,
        caller: SpiffeId,
    ) -> None:
        told = {"consumers": str(outcome.consumers)}
        if request.HasField("rename_to"):
            told |= {"renamed_to": request.rename_to, "quotas": str(outcome.quotas)}
        else:
            units = {name: str(each) for name, each in sorted(request.split.units.items())}
            told |= {"host_id": request.split.host_id}
            told |= {f"units.{name}": each for name, each in units.items()}
        audit.append(
            connection,
            micros(self._clock.now()),
            actor=caller,
            action="inventory.reshaped",
            subject=request.resource_class,
            details=told,
        )


def _elsewhere(views: Mapping[str, HostView], host_id: str) -> set[str]:
    """Classes of the pool, for a host; of the hosts, for the pool: they are never of both."""
    other_side = [view for key, view in views.items() if (key == POOL) != (host_id == POOL)]
    return {name for view in other_side for name in view.total}


def _require_enough(view: HostView, name: str, family: frozenset[str], units: Amounts) -> None:
    """Raises InvalidArgument INVALID_FIELD for more units than the host has."""
    there = sum(view.total.get(each, 0) for each in family)
    if sum(units.values()) > there:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            f"split.units: {sum(units.values())} units, and {view.host_id} has {there} of {name!r}",
            hint="leave what is left to the class itself",
            field="split.units",
        )
