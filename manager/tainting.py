"""When an operator expects the reasons to keep machines away to be over: a function of values."""

from collections.abc import Collection, Mapping
from datetime import datetime

from watari import validate

FIELD = "taint_ends"


def ends(taints: Collection[str], told: Mapping[str, str]) -> dict[str, datetime]:
    """The moment that is told of each taint, as `2026-12-01T06:00:00Z`.

    Raises InvalidArgument INVALID_FIELD for what is no moment with its zone, and for what is no
    taint.
    """
    found = {}
    for taint, text in told.items():
        if taint not in taints:
            known = ", ".join(sorted(taints)) or "there is none"
            raise validate.invalid_field(FIELD, f"{taint!r} is no taint", f"taints: {known}")
        found[taint] = _moment(taint, text)
    return found


def _moment(taint: str, text: str) -> datetime:
    hint = "a time with its zone, such as 2026-12-01T06:00:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise validate.invalid_field(FIELD, f"{text!r} of {taint!r} is no time", hint) from error
    if moment.tzinfo is None:
        raise validate.invalid_field(FIELD, f"{text!r} of {taint!r} has no zone", hint)
    return moment
