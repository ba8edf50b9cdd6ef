"""What stands against a reshape of resource classes: functions of values."""

from collections.abc import Collection, Iterable, Mapping

from manager.accounting.price_sheet import PriceBook, PriceSheet
from manager.inventory import AMOUNT_MAX, CLASS_BYTES_MAX, Amounts, HostView, total
from manager.quotas.limits import MACHINES, Limits
from manager.shapes import FIXED, Shape
from watari import errors, validate
from watari.v1 import manager_pb2

PARTS_MAX = 16
"""Classes that are split off one class of a host; the contract's number."""

MOVES_MAX = 10_000
"""Consumers that a split names; the contract's number."""


def require_request(request: manager_pb2.ReshapeInventoryRequest) -> None:
    """Checks shape and bounds. Raises InvalidArgument INVALID_FIELD and INVALID_ID."""
    _class(request.resource_class, "resource_class")
    if request.WhichOneof("change") is None:
        raise validate.invalid_field("change", "is not set", "set rename_to or split")
    if request.HasField("rename_to"):
        _other(request.rename_to, "rename_to", request.resource_class)
        return
    split = request.split
    validate.require_text(split.host_id, "split.host_id", bytes_max=128, empty=False)
    validate.require_count(len(split.units), "split.units", PARTS_MAX)
    for name, amount in split.units.items():
        _other(name, "split.units", request.resource_class)
        validate.require_range(amount, f"split.units.{name}", 0, AMOUNT_MAX)
    validate.require_count(len(split.moves), "split.moves", MOVES_MAX)
    targets = {request.resource_class, *(name for name, units in split.units.items() if units)}
    for consumer, name in split.moves.items():
        validate.require_uuid(consumer, "split.moves")
        if name not in targets:
            raise validate.invalid_field(
                f"split.moves.{consumer}",
                f"{name!r} gets no units",
                f"one of {', '.join(sorted(targets))}",
            )


def require_there(name: str, known: Collection[str]) -> None:
    """Raises NotFound CLASS_NOT_FOUND."""
    if name not in known:
        raise errors.NotFound(
            "CLASS_NOT_FOUND",
            f"there is no resource class {name!r} here",
            hint=f"there are {', '.join(sorted(set(known) - FIXED)) or 'none besides the usual'}",
            resource=name,
        )


def require_whole(name: str, shape: Shape) -> None:
    """Raises InvalidArgument INVALID_FIELD for what was split off another class itself."""
    for whole, parts in shape.split.items():
        if name in parts:
            raise validate.invalid_field(
                "resource_class",
                f"{name!r} was split off {whole!r}",
                f"split {whole!r} anew: what is said of its units replaces what was said",
            )


def require_new(name: str, known: Collection[str], retired: Mapping[str, str]) -> None:
    """Raises FailedPrecondition CLASS_EXISTS for a name that means something already."""
    if name in retired:
        raise errors.FailedPrecondition(
            "CLASS_EXISTS",
            f"{name!r} was the name of what is called {retired[name]!r} now",
            hint="choose a name that was not used before",
            resource=name,
        )
    if name in known:
        raise errors.FailedPrecondition(
            "CLASS_EXISTS",
            f"there is a resource class {name!r} already: a host has it, a machine takes of it, "
            "or a quota names it",
            hint="choose another name; two classes are never made one",
            resource=name,
        )


def require_limited(old: str, new: str, limits: Mapping[str, Limits]) -> None:
    """Raises FailedPrecondition CLASS_LIMITED where a quota limits what is split, and would not
    limit what it becomes. `limits` are of tenants, by what they are called.
    """
    for tenant, each in sorted(limits.items()):
        if any(old in said and new not in said for said in (each.hard, each.soft)):
            raise errors.FailedPrecondition(
                "CLASS_LIMITED",
                f"the quota of {tenant} limits {old!r} and not {new!r}",
                hint=f"say first what it may have of the new one: watari quota set ... {new}=N",
                tenant=tenant,
                resource=new,
            )


def require_priced(old: str, new: str, sheets: Iterable[PriceSheet]) -> None:
    """Raises FailedPrecondition CLASS_PRICED where a price sheet charges for what there was and
    not, by the same measures, for what it becomes.
    """
    for sheet in sheets:
        charged = {each.measure for each in sheet.components if each.resource == old}
        also = {each.measure for each in sheet.components if each.resource == new}
        if not charged <= also:
            raise errors.FailedPrecondition(
                "CLASS_PRICED",
                f"price sheet {sheet.version} charges for {old!r} and not for {new!r}",
                hint=f"record a sheet with components for both: machines that are here stay "
                f"charged for {old!r}, those that come are for {new!r}; then wait until it is in "
                "effect and quotes of earlier ones have ended",
                version=sheet.version,
                resource=new,
            )


def in_use(book: PriceBook, since: int, pinned: Collection[int]) -> list[PriceSheet]:
    """The price sheets by which somebody may be charged: in effect since a moment, or to come, or
    pinned by a reservation.
    """
    versions = book.versions
    later = [each.effective_from for each in versions[1:]] + [None]
    return [
        sheet
        for sheet, until in zip(versions, later, strict=True)
        if until is None or until > since or sheet.version in pinned
    ]


def require_room(after: HostView, classes: Iterable[str], before: Amounts) -> None:
    """Raises Exhausted RESHAPE_OVERCOMMITS where more is taken of one of these classes, now or by
    what is booked, than there is, unless there was no more of it `before`.
    """
    for name in sorted(classes):
        taken = sum(each.get(name, 0) for each in (after.allocated, after.held, after.booked))
        most = after.capacity.get(name, 0)
        if taken > most and most < before.get(name, AMOUNT_MAX):
            raise _overcommitted(name, taken, most, after.host_id)


def require_left(host_id: str, gone: frozenset[str], staying: Iterable[Amounts]) -> None:
    """Raises Exhausted RESHAPE_OVERCOMMITS where some stay with a class that is gone after it: of
    what there is none, nobody could tell whether it was the pool's.
    """
    taken = total(staying)
    for name in sorted(gone & taken.keys()):
        raise _overcommitted(name, taken[name], 0, host_id)


def _overcommitted(name: str, taken: int, most: int, host_id: str) -> errors.Exhausted:
    return errors.Exhausted(
        "RESHAPE_OVERCOMMITS",
        f"{taken} of {name!r} would be taken on {host_id}, and there would be {most}",
        hint="give the class more units, or move more allocations to another one",
        resource=name,
        asked=taken,
        free=most,
        host=host_id,
    )


def require_generation(host_id: str, expected: int, actual: int) -> None:
    """Raises Conflict GENERATION_CONFLICT; 0 is any."""
    if expected not in (0, actual):
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            f"the inventory of {host_id} is of generation {actual}, not {expected}",
            hint="look at it again, then decide",
            expected=expected,
            actual=actual,
        )


def _class(name: str, field: str) -> None:
    validate.require_text(name, field, bytes_max=CLASS_BYTES_MAX, empty=False)
    if name in FIXED or name == MACHINES:
        raise validate.invalid_field(field, f"{name!r} stays what it is", "name a further class")


def _other(name: str, field: str, old: str) -> None:
    _class(name, field)
    if name == old:
        raise validate.invalid_field(field, f"{name!r} is the class itself", "name another one")
