"""What Prometheus is told of a broker, beside its calls."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from watari import errors

QUERIES = Counter("watari_broker_queries", "Questions that were answered or refused.", ["method"])
REFUSALS = Counter(
    "watari_broker_refusals", "Questions that were refused, by reason.", ["method", "reason"]
)
MOVES = Counter("watari_broker_plan_moves", "Moves of plans: begun, done, failed.", ["outcome"])
CALIBRATION = Histogram(
    "watari_broker_estimate_ratio",
    "What moves of plans took, by what was estimated: 1 is just right.",
    ["what"],
    buckets=(0.25, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2, 4, 10),
)
EVALUATION_SECONDS = Histogram(
    "watari_broker_evaluation_seconds",
    "Time of one evaluation of all policies.",
    buckets=(0.01, 0.1, 1, 10, 60, 600),
)

HOLDS = Counter(
    "watari_broker_holds",
    "Candidates that were asked to hold room, by outcome.",
    ["outcome"],
)
PASSED_OVER = Counter(
    "watari_broker_passed_over", "Candidates that were not asked, as they had just refused."
)
RELEASES = Counter(
    "watari_broker_releases", "Holds that were given back or left to expire.", ["outcome"]
)
REMEMBERED = Gauge("watari_broker_refusals_remembered", "Refusals of clouds that still count.")

OTHER = "OTHER"
"""Stands for every reason that is not told by itself: peers choose reasons too, without end."""

REASONS = frozenset(
    {
        "AUTOMATION_OFF",
        "BUDGET_EXCEEDED",
        "CLOUD_NOT_FOUND",
        "DEADLINE_EXCEEDED",
        "DELEGATION_INVALID",
        "DELEGATION_REVOKED",
        "FIELD_INVALID",
        "GENERATION_CONFLICT",
        "ID_REUSED",
        "INSUFFICIENT_CAPACITY",
        "MANDATE_INVALID",
        "NOT_ALLOWED",
        "NOT_SERVED",
        "NO_CANDIDATE",
        "PEER_ERROR",
        "PEER_UNAVAILABLE",
        "QUOTA_EXCEEDED",
        "RECORD_NOT_FOUND",
        "TOO_MANY_BATCHES",
        "TOO_MANY_POLICIES",
        "TOO_MANY_WATCHES",
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
        REFUSALS.labels(method, reason(error)).inc()
        raise


def reason(error: errors.WatariError) -> str:
    """The error's reason, as it is told."""
    return error.reason if error.reason in REASONS else OTHER
