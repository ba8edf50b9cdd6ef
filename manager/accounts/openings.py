"""The machines that are here when a month begins, as JSON that is kept. Pure."""

import json
from collections.abc import Iterable

from manager.accounting.events import Pin
from manager.accounting.metering import Holding


def to_json(held: Iterable[Holding]) -> str:
    """The document of some machines: equal ones have equal documents."""
    ordered = sorted(held, key=lambda each: each.vm_id)
    return json.dumps([_document(each) for each in ordered], ensure_ascii=False, sort_keys=True)


def from_json(document: str) -> list[Holding]:
    """The machines of a document that `to_json` made."""
    return [
        Holding(**{**each, "pin": Pin(**each["pin"]) if each["pin"] else None})
        for each in json.loads(document)
    ]


def _document(holding: Holding) -> dict[str, object]:
    pin = holding.pin
    return {
        **vars(holding),
        "resources": dict(holding.resources),
        "pin": None if pin is None else vars(pin),
    }
