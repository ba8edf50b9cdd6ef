"""What Prometheus is told of a broker, beside its calls."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter

from watari import errors

QUERIES = Counter("watari_broker_queries", "Questions that were answered or refused.", ["method"])
REFUSALS = Counter(
    "watari_broker_refusals", "Questions that were refused, by reason.", ["method", "reason"]
)

OTHER = "OTHER"
"""Stands for every reason that is not told by itself: peers choose reasons too, without end."""

REASONS = frozenset(
    {
        "CLOUD_NOT_FOUND",
        "DEADLINE_EXCEEDED",
        "FIELD_INVALID",
        "ID_REUSED",
        "NO_CANDIDATE",
        "PEER_ERROR",
        "PEER_UNAVAILABLE",
        "TOO_MANY_BATCHES",
        "VM_ALREADY_THERE",
        "VM_BUSY",
        "VM_NOT_FOUND",
    }
)


@contextmanager
def asked(method: str) -> Iterator[None]:
    """Counts a question. What a refusal raises goes on."""
    QUERIES.labels(method).inc()
    try:
        yield
    except errors.WatariError as error:
        reason = error.reason if error.reason in REASONS else OTHER
        REFUSALS.labels(method, reason).inc()
        raise
