"""The states of a migration and every step between them, on one screen."""

from enum import StrEnum

from watari import errors


class State(StrEnum):
    """Where a migration stands; the names of the contract's MigrationState."""

    REQUESTED = "REQUESTED"
    RESERVING = "RESERVING"
    COPYING = "COPYING"
    CONFIRMING = "CONFIRMING"
    HANDED_OVER = "HANDED_OVER"
    RETIRING = "RETIRING"
    SUCCEEDED = "SUCCEEDED"
    TAKING_BACK = "TAKING_BACK"
    ROLLING_BACK = "ROLLING_BACK"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TRANSITIONS: dict[State, frozenset[State]] = {
    # Nobody was asked for anything: it may end at once.
    State.REQUESTED: frozenset({State.RESERVING, State.FAILED, State.CANCELLED}),
    State.RESERVING: frozenset({State.COPYING, State.ROLLING_BACK}),
    State.COPYING: frozenset({State.CONFIRMING, State.ROLLING_BACK}),
    State.CONFIRMING: frozenset({State.HANDED_OVER, State.ROLLING_BACK}),
    # ---- the commit point: from here on only the destination can give the machine back ----
    State.HANDED_OVER: frozenset({State.RETIRING, State.TAKING_BACK}),
    State.RETIRING: frozenset({State.SUCCEEDED}),
    # ---- the second one: the machine is ours again ----
    State.TAKING_BACK: frozenset({State.FAILED}),
    State.ROLLING_BACK: frozenset({State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

FINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
COMMITTED = frozenset({State.HANDED_OVER, State.RETIRING, State.SUCCEEDED})
"""States in which the machine belongs to the destination."""

ONWARD = (COMMITTED | {State.ROLLING_BACK, State.TAKING_BACK}) - FINAL
"""States that are gone through whatever fails: a step in them is repeated for ever."""

CANCELLABLE = frozenset({State.REQUESTED, State.RESERVING, State.COPYING, State.CONFIRMING})
LIMITABLE = CANCELLABLE - {State.CONFIRMING}
"""States in which content still has to cross, so that a bandwidth cap means something."""

IN_PLACE = frozenset({State.RESERVING, State.COPYING, State.CONFIRMING})
"""States in which a migration takes one of the places for concurrent migrations."""


def check(current: State, following: State) -> None:
    """Raises FailedPrecondition MIGRATION_STATE unless the table has this step."""
    if following not in TRANSITIONS[current]:
        allowed = ", ".join(sorted(TRANSITIONS[current])) or "nothing"
        raise errors.FailedPrecondition(
            "MIGRATION_STATE",
            f"a migration in {current} never becomes {following}",
            hint=f"from {current} it can become {allowed}",
            state=current,
            following=following,
        )
