"""What the operator says of resource classes, beside what hosts tell: functions of values."""

from collections.abc import Mapping

from manager import inventory
from manager.inventory import Amounts, Units
from manager.settings.hosts import AgentSettings, ClassSettings
from watari import validate


def reserved_of(settings: AgentSettings) -> Amounts:
    """What the operator keeps back on a host."""
    named = {
        inventory.VCPUS: settings.reserved_vcpus,
        inventory.MEMORY: settings.reserved_memory_bytes,
        inventory.DISK: settings.reserved_disk_bytes,
    }
    return inventory.total(
        (named, {name: each.reserved for name, each in settings.inventory.items()})
    )


def ratios_of(settings: AgentSettings) -> dict[str, float]:
    """How far classes of a host are oversold."""
    ratios = {name: each.allocation_ratio for name, each in settings.inventory.items()}
    vcpus = ratios.get(inventory.VCPUS, 1.0) * settings.vcpu_allocation_ratio
    return ratios | {inventory.VCPUS: vcpus}


def units_of(classes: Mapping[str, ClassSettings]) -> dict[str, Units]:
    """How much of these classes one machine may get."""
    return {
        name: Units(each.min_unit, each.max_unit, each.step_size) for name, each in classes.items()
    }


def totals_of(told: Amounts, settings: AgentSettings) -> Amounts:
    """What a host has: as its agent told or the operator says instead."""
    said = {name: each.total for name, each in settings.inventory.items() if each.total}
    return told | said


def require(classes: Mapping[str, ClassSettings], field: str) -> None:
    """What the types of the settings cannot say. Raises InvalidArgument INVALID_FIELD."""
    validate.require_count(len(classes), field, inventory.OTHER_CLASSES_MAX)
    for name, each in classes.items():
        most = inventory.CLASS_BYTES_MAX
        validate.require_text(name, field, bytes_max=most, empty=False)
        # The largest multiple of the step that may be given must be one that is enough.
        if each.max_unit // each.step_size * each.step_size < each.min_unit:
            raise validate.invalid_field(
                f"{field}.{name}",
                "admits no amount",
                "a multiple of step_size from min_unit to max_unit",
            )


def require_pool(classes: Mapping[str, ClassSettings], field: str) -> None:
    """The same for the pool, which has nothing that every host has."""
    require(classes, field)
    hosts = {inventory.VCPUS, inventory.MEMORY, inventory.DISK, inventory.STORAGE}
    for name in sorted(hosts & classes.keys()):
        raise validate.invalid_field(f"{field}.{name}", "is the hosts'", "name a further class")
