"""From what a cloud has recorded of a machine to the events that accounting takes. Pure.

Two kinds of facts are joined. *Usage records* of migrations have the instant of the signed
hand-over, the same at both clouds: a machine is here from the ARRIVED one to the LEFT one, whatever
any host says. *Events of hosts* say what it did in between: what they tell of the time before an
arrival or after a departure, as a clock that is fast or slow makes them, is moved to that instant.
Hosts begin and end a machine's time here only where no migration did.

What comes out can always be metered: a fact that cannot follow those before it is left out or
completed, and told of as a `Problem`.
"""

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from manager.accounting import events
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.metering import Holding


class What(enum.Enum):
    """What a fact tells."""

    ARRIVED = "arrived"
    """By a migration, as the usage record says."""
    LEFT = "left"
    """By a migration, as the usage record says."""
    APPEARED = "appeared"
    STARTED = "started"
    STOPPED = "stopped"
    RESIZED = "resized"
    REMOVED = "removed"
    BROUGHT = "brought"
    """A host made a machine of what a migration brought; whether it is here then, a usage record
    says."""
    TAKEN = "taken"
    """A host put away what a migration took."""


BY_RECORD = frozenset({What.ARRIVED, What.LEFT})

CHANGES = frozenset(What) - {What.BROUGHT, What.TAKEN}
"""What may change a charge."""

_RANK = {What.ARRIVED: 0, What.LEFT: 2}
"""Of one instant: the arrival comes before, the departure after everything else."""


@dataclass(frozen=True)
class Fact:
    """One thing that was recorded of a machine."""

    fact_id: str
    position: int
    """In the order in which facts of its kind were recorded."""
    what: What
    at: int
    """Microseconds since 1970."""
    vm_id: str
    tenant_domain: str
    tenant: str
    vm_name: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    running: bool = False
    """Of host's events: whether it runs after it."""
    host: tuple[str, str] = ("", "")
    """Which host's log it is from: host and log."""
    migration_id: str = ""
    peer: str = ""
    wire_bytes: int = 0
    pin: Pin | None = None


@dataclass(frozen=True)
class Problem:
    """Something that does not add up, and what was made of it."""

    vm_id: str
    fact_id: str
    words: str


@dataclass(frozen=True)
class Cloud:
    """Whose facts these are."""

    cloud_id: str
    domain: str
    """The provider's."""


@dataclass(frozen=True)
class Told:
    """What facts come to."""

    events: Sequence[Event]
    problems: Sequence[Problem]


def told(
    facts: Iterable[Fact], opening: Mapping[str, Holding], *, since: int, cloud: Cloud
) -> Told:
    """The events from `since` on of all machines, with the state in which they were then. Facts of
    before `since` are context only.
    """
    by_machine: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_machine[fact.vm_id].append(fact)
    found: list[Event] = []
    problems: list[Problem] = []
    for vm_id in sorted(by_machine):
        stay = _Stay(cloud, opening.get(vm_id))
        for fact in in_order(by_machine[vm_id]):
            if fact.at >= since:
                stay.take(fact)
        found += stay.events
        problems += stay.problems
    return Told(found, problems)


def in_order(facts: Sequence[Fact]) -> list[Fact]:
    """The facts of one machine by the instants that count, without hosts' facts of a migration that
    has no record of the machine's arrival: it was given back, or nothing is agreed on yet.
    """
    came = sorted((each for each in facts if each.what is What.ARRIVED), key=lambda each: each.at)
    arrivals = {fact.migration_id: fact.at for fact in reversed(came)}
    by_log: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.what not in BY_RECORD:
            by_log[fact.host].append(fact)
    kept = [fact for fact in facts if fact.what in BY_RECORD]
    for log in by_log.values():
        kept += _of_log(sorted(log, key=lambda fact: fact.position), arrivals)
    return sorted(kept, key=lambda fact: (fact.at, _RANK.get(fact.what, 1), fact.position))


def _of_log(log: Sequence[Fact], arrivals: Mapping[str, int]) -> Iterator[Fact]:
    """What one host's log says of a machine, moved to the instants that count."""
    brought: str | None = None
    """The migration that brought the machine that the log speaks of; None where none did."""
    for fact in log:
        if fact.what is What.BROUGHT:
            brought = fact.migration_id
        elif fact.what is What.APPEARED:
            brought = None
        if brought is None:
            yield fact
        elif brought in arrivals:
            yield _not_before(fact, arrivals[brought])
        if fact.what in (What.REMOVED, What.TAKEN):
            brought = None


def _not_before(fact: Fact, at: int) -> Fact:
    return fact if fact.at >= at else Fact(**{**vars(fact), "at": at})


class _Stay:
    """One machine, fact by fact."""

    def __init__(self, cloud: Cloud, opening: Holding | None) -> None:
        self.events: list[Event] = []
        self.problems: list[Problem] = []
        self._cloud = cloud
        self._here = opening is not None
        self._running = opening is not None and opening.running
        self._resources = dict(opening.resources) if opening else {}
        self._of = (opening.payer, opening.tenant) if opening else ("", "")
        self._left = False
        """By a migration: hosts' facts bring it back only where it appears anew."""
        self._hosts: set[str] = set()

    def take(self, fact: Fact) -> None:
        """What follows from one more fact."""
        match fact.what:
            case What.ARRIVED:
                self._arrive(fact)
            case What.LEFT:
                self._leave(fact)
            case What.REMOVED | What.TAKEN:
                self._vanish(fact)
            case What.BROUGHT:
                self._hosts.add(fact.host[0])
            case _:
                self._go_on(fact)

    def _arrive(self, fact: Fact) -> None:
        if self._here:
            self._note(fact, "it arrived and was here already: its time here begins anew")
            self._emit(Kind.DELETED, fact, suffix="/before")
        self._begin(fact)
        self._emit(
            Kind.ARRIVED,
            fact,
            pin=fact.pin,
            migration_id=fact.migration_id,
            peer=fact.peer,
            received_bytes=fact.wire_bytes,
        )

    def _leave(self, fact: Fact) -> None:
        if not self._here:
            self._note(fact, "it left and nobody told that it was here: only the move is charged")
            self._begin(fact)
            self._emit(Kind.STOPPED, fact, suffix="/before")
        self._emit(
            Kind.DEPARTED,
            fact,
            migration_id=fact.migration_id,
            peer=fact.peer,
            sent_bytes=fact.wire_bytes,
        )
        self._here, self._running, self._left = False, False, True
        self._hosts.clear()

    def _vanish(self, fact: Fact) -> None:
        self._hosts.discard(fact.host[0])
        if fact.what is What.REMOVED and self._here and not self._hosts:
            self._emit(Kind.DELETED, fact)
            self._here, self._running = False, False

    def _go_on(self, fact: Fact) -> None:
        if not self._here:
            if self._left and fact.what is not What.APPEARED:
                return  # its host is late: it runs elsewhere
            if fact.what is not What.APPEARED:
                self._note(fact, f"it {fact.what.value} and nobody told that it had appeared")
            self._begin(fact)
            self._start_or_stop(fact, fact.running)
            return
        self._hosts.add(fact.host[0])
        if self._payer(fact) != self._of:
            self._note(fact, f"it belongs to {fact.tenant} from here on: its time begins anew")
            self._emit(Kind.DELETED, fact, suffix="/before")
            self._begin(fact)
            self._start_or_stop(fact, fact.running)
            return
        # Of further classes, such as addresses, a host says nothing: they stay as they were given.
        resources = {**self._resources, **fact.resources}
        changed = resources != self._resources
        self._resources = resources
        if fact.running != self._running:
            self._start_or_stop(fact, fact.running)
        elif changed:
            self._emit(Kind.RESIZED, fact)

    def _begin(self, fact: Fact) -> None:
        self._here, self._running, self._left = True, False, False
        self._of = self._payer(fact)
        self._resources = dict(fact.resources)
        if fact.what not in BY_RECORD:
            self._hosts.add(fact.host[0])

    def _start_or_stop(self, fact: Fact, running: bool) -> None:
        self._emit(Kind.STARTED if running else Kind.STOPPED, fact)
        self._running = running

    def _payer(self, fact: Fact) -> tuple[str, str]:
        return events.payer(fact.tenant_domain, fact.tenant, self._cloud.domain), fact.tenant

    def _note(self, fact: Fact, words: str) -> None:
        self.problems.append(Problem(fact.vm_id, fact.fact_id, words))

    def _emit(
        self,
        kind: Kind,
        fact: Fact,
        *,
        suffix: str = "",
        pin: Pin | None = None,
        migration_id: str = "",
        peer: str = "",
        sent_bytes: int = 0,
        received_bytes: int = 0,
    ) -> None:
        payer, tenant = self._of
        self.events.append(
            Event(
                event_id=f"{fact.fact_id}{suffix}",
                sequence=len(self.events),
                cloud_id=self._cloud.cloud_id,
                kind=kind,
                at=fact.at,
                vm_id=fact.vm_id,
                payer=payer,
                tenant=tenant,
                vm_name=fact.vm_name,
                resources=self._resources,
                pin=pin,
                migration_id=migration_id,
                peer=peer,
                sent_bytes=sent_bytes,
                received_bytes=received_bytes,
            )
        )
