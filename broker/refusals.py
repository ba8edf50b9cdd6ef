"""Which clouds refused to hold which machines a moment ago, so that nobody asks them in vain.

A refusal is remembered for what it says and no further: a machine that needs as much of everything
would be refused for want of room too; a tenant beyond its quota stays beyond it with more; a
manager that does not answer answers nobody. It is forgotten when a capacity record of the cloud
changes, or after a time: then the manager is asked again, and has the last word.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from broker.amounts import Amounts
from broker.values import Cloud
from watari import errors


@dataclass(frozen=True)
class RefusalSettings:
    """How long refusals count."""

    seconds_max: float = field(default=10.0, metadata={"min": 0.0})
    """A refusal counts for this many seconds at most: a burst is over by then, or room has come
    back. 0 remembers none."""

    remembered_max: int = field(default=10_000, metadata={"min": 1})
    """Refusals held; the oldest gives way. It bounds the broker's memory."""

    per_cloud_max: int = field(default=64, metadata={"min": 1})
    """Of one cloud: each decision about it looks at all of them."""


class Scope(Enum):
    """Whom a refusal speaks of besides the one who asked."""

    MACHINES = auto()
    """Whoever needs as much."""
    TENANT = auto()
    """The same tenant, when it needs as much."""
    EVERYBODY = auto()


_SCOPES: Mapping[str, Scope] = {
    "INSUFFICIENT_CAPACITY": Scope.MACHINES,
    "QUOTA_EXCEEDED": Scope.TENANT,
    "BUDGET_EXCEEDED": Scope.TENANT,
    "DEADLINE_EXCEEDED": Scope.EVERYBODY,
    "NOT_ALLOWED": Scope.EVERYBODY,
    "NOT_SERVED": Scope.EVERYBODY,
    "PEER_UNAVAILABLE": Scope.EVERYBODY,
    "PROVIDER_UNKNOWN": Scope.EVERYBODY,
}
"""By reason. Other refusals speak of the one machine, and are not remembered."""


@dataclass(frozen=True)
class Wish:
    """What room is wanted for."""

    tenant: tuple[str, str]
    """Home provider and name."""
    needed: Amounts

    def at_least(self, other: "Wish") -> bool:
        """Whether it needs as much as the other, of each class."""
        return all(amount <= self.needed.get(kind, 0) for kind, amount in other.needed.items())


@dataclass(frozen=True)
class Refusal:
    """That a cloud's manager refused a wish."""

    cloud_id: str
    wish: Wish
    scope: Scope
    error: errors.WatariError
    at: datetime
    record: datetime | None
    """When the cloud's newest capacity record had changed, as the broker knew it then."""

    def speaks_of(self, wish: Wish) -> bool:
        """Whether `wish` would be refused for the same reason."""
        match self.scope:
            case Scope.EVERYBODY:
                return True
            case Scope.TENANT:
                return wish.tenant == self.wish.tenant and wish.at_least(self.wish)
            case Scope.MACHINES:
                return wish.at_least(self.wish)

    def counts(self, cloud: Cloud, now: datetime, settings: RefusalSettings) -> bool:
        """Whether it still says something about the cloud as it is known now."""
        age = now - self.at
        return age < timedelta(seconds=settings.seconds_max) and self.record == newest(cloud)


def newest(cloud: Cloud) -> datetime | None:
    """When the newest of a cloud's capacity records changed; None when it has none."""
    return max((each.updated_at for each in cloud.capacities.values()), default=None)


class Refusals:
    """The refusals that one broker has seen. May be used from any thread."""

    def __init__(self, settings: RefusalSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._clouds: OrderedDict[str, tuple[Refusal, ...]] = OrderedDict()
        """By cloud; the cloud that refused last comes last."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def note(self, cloud: Cloud, wish: Wish, error: errors.WatariError, now: datetime) -> None:
        """A cloud has refused. What the refusal says already of others is not kept twice."""
        scope = _SCOPES.get(error.reason)
        if scope is None or self._settings.seconds_max == 0:
            return
        new = Refusal(cloud.cloud_id, wish, scope, error, now, newest(cloud))
        with self._lock:
            known = self._clouds.pop(cloud.cloud_id, ())
            kept = [one for one in known if not _implied(one, new)]
            of_cloud = (*kept, new)[-self._settings.per_cloud_max :]
            self._clouds[cloud.cloud_id] = of_cloud
            self._count += len(of_cloud) - len(known)
            while self._count > self._settings.remembered_max:
                self._count -= self._drop_oldest()

    def of(self, cloud: Cloud, wish: Wish, now: datetime) -> Refusal | None:
        """The newest refusal by the cloud that speaks of `wish`, if there is one."""
        for one in reversed(self._clouds.get(cloud.cloud_id, ())):
            if one.speaks_of(wish) and one.counts(cloud, now, self._settings):
                return one
        return None

    def _drop_oldest(self) -> int:
        cloud_id, of_cloud = next(iter(self._clouds.items()))
        if len(of_cloud) == 1:
            del self._clouds[cloud_id]
        else:
            self._clouds[cloud_id] = of_cloud[1:]
        return 1


def _implied(old: Refusal, new: Refusal) -> bool:
    """Whether all that `old` says, `new` says as well, and later."""
    return old.scope is new.scope and new.speaks_of(old.wish)
