"""What the manager's services call."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from manager.billing.parts import Billing
from manager.callers import Callers
from manager.drifts import Drifts
from manager.estimate_grants import EstimateGrants
from manager.estimates import Estimates
from manager.evacuations.running import Evacuations
from manager.handover import HandOvers
from manager.holds import Holds
from manager.lifecycle import Lifecycle
from manager.migrations import Migrations
from manager.publisher import Publisher
from manager.quotas.book import Quotas
from manager.quoting import Quoting
from manager.reservations import Reservations
from manager.reshaping import Reshaping
from manager.resolutions import Resolutions
from manager.retained import RetainedCopies
from manager.revocations import Revocations
from manager.settings import Settings
from manager.store import Store
from watari import paging


@dataclass(frozen=True)
class Domain:
    """What the services call."""

    settings: Settings
    provider_domain: str
    callers: Callers
    revocations: Revocations
    store: Store
    migrations: Migrations
    evacuations: Evacuations
    estimates: Estimates
    reservations: Reservations
    holds: Holds
    quotas: Quotas
    billing: Billing
    quoting: Quoting
    estimate_grants: EstimateGrants
    hand_overs: HandOvers
    resolutions: Resolutions
    lifecycle: Lifecycle
    drifts: Drifts
    reshaping: Reshaping
    retained: RetainedCopies
    publisher: Publisher
    stopping: threading.Event


def next_page(query: bytes, positions: Sequence[tuple[str | int, ...]], size: int) -> str:
    """The token of the next page, if one more than a page was found."""
    return paging.encode(query, positions[size - 1]) if len(positions) > size else ""
