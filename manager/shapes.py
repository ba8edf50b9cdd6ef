"""What operators have made of resource classes since hosts and settings named them: values.

Hosts, settings and requests go on saying what they always said. A shape says what that means now:
classes that were *renamed*, in the whole cloud, and units of a host's class that were *split* off
into further classes. Whatever is counted, is counted in the present names; everything that comes
from outside goes through here first.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from manager import inventory
from manager.inventory import Amounts
from manager.settings.hosts import ClassSettings
from watari.v1 import manager_pb2

FIXED = frozenset({inventory.VCPUS, inventory.MEMORY, inventory.DISK, inventory.STORAGE})
"""Classes that the contract itself names: they stay what they are."""


@dataclass(frozen=True)
class Shape:
    """Of a host, or of the pool."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    """Present names by every earlier one."""

    split: Mapping[str, Amounts] = field(default_factory=dict)
    """Of a class by its present name: units that are another class now, by that."""

    def name(self, told: str) -> str:
        """The present name of a class."""
        return self.renamed.get(told, told)

    def named(self, told: Mapping[str, int]) -> Amounts:
        """The amounts by present names."""
        if not self.renamed:
            return dict(told)
        return inventory.total({self.name(name): amount} for name, amount in told.items())

    def family(self, name: str) -> frozenset[str]:
        """A class with those that were split off it."""
        return frozenset({name, *self.split.get(name, ())})

    def totals(self, told: Mapping[str, int]) -> Amounts:
        """What there is of each class, of what hosts and settings say there is. They may come to
        name a class that was split off themselves, and then what they say of it holds; never is
        there more than they say.
        """
        found = self.named(told)
        said = frozenset(found)
        for name, parts in self.split.items():
            left = found.get(name, 0)
            for part in sorted(parts.keys() - said):
                found[part] = min(parts[part], left)
                left -= found[part]
            if name in found:
                found[name] = left
        return found

    def settings(self, said: Mapping[str, ClassSettings]) -> dict[str, ClassSettings]:
        """What the operator says of each class. A class that was split off is bounded and oversold
        as the one that it was, until the settings name it; what is kept back stays with that.
        """
        found = {self.name(name): each for name, each in said.items()}
        for name, parts in self.split.items():
            if name in found:
                inherited = replace(found[name], total=0, reserved=0)
                found = dict.fromkeys(parts, inherited) | found
        return found

    def divided(self, told: Mapping[str, int], known: Mapping[str, int]) -> Amounts:
        """What a machine takes of each class, where somebody says how much it takes of those that
        were split, and `known` is what it took before: that keeps its class, as far as it goes.
        """
        found = self.named(told)
        for name, parts in self.split.items():
            left = found.pop(name, 0)
            for part in sorted(parts.keys() & known.keys() - found.keys()):
                taken = min(known[part], left)
                found |= {part: taken} if taken else {}
                left -= taken
            found |= {name: left} if left else {}
        return found

    def seen(self, told: Mapping[str, int], known: Mapping[str, int]) -> Amounts:
        """The same of what a host tells. It knows machines, and not all that is sold with them: a
        further class that it says nothing of is kept, and one of which it says zero is not.
        """
        named = {self.name(name) for name in told}
        spoken_of = frozenset(FIXED.union(named, *map(self.family, named)))
        kept = {name: amount for name, amount in known.items() if name not in spoken_of}
        found = self.divided({name: amount for name, amount in told.items() if amount}, known)
        return kept | found

    def renaming(self, old: str, new: str) -> "Shape":
        """The shape after a class got another name."""

        def now(name: str) -> str:
            return new if name == old else name

        names = {told: now(name) for told, name in self.renamed.items()} | {old: new}
        parts = {
            now(name): {now(part): units for part, units in each.items()}
            for name, each in self.split.items()
        }
        return Shape({told: name for told, name in names.items() if told != name}, parts)

    def splitting(self, name: str, units: Amounts) -> "Shape":
        """The shape after units of a class became other classes, and no others are any more."""
        parts = {part: amount for part, amount in units.items() if amount}
        others = {each: of for each, of in self.split.items() if each != name}
        return replace(self, split=others | ({name: parts} if parts else {}))

    def message(self) -> manager_pb2.ClassShape:
        """As it is stored and shown."""
        return manager_pb2.ClassShape(
            renamed=self.renamed,
            split={name: manager_pb2.ClassUnits(units=each) for name, each in self.split.items()},
        )


PLAIN = Shape()
"""Everything is what it was named."""


def of_message(message: manager_pb2.ClassShape) -> Shape:
    """The inverse of `Shape.message`."""
    split = {name: dict(each.units) for name, each in message.split.items()}
    return Shape(dict(message.renamed), split)


def of_blob(blob: bytes | None) -> Shape:
    """The inverse of `blob_of`."""
    return of_message(manager_pb2.ClassShape.FromString(blob)) if blob else PLAIN


def blob_of(shape: Shape) -> bytes | None:
    """As a row has it."""
    return shape.message().SerializeToString(deterministic=True) or None


def moved(amounts: Amounts, family: Collection[str], to: str) -> Amounts:
    """The amounts once all that is taken of a family of classes is of one of them."""
    taken = sum(amount for name, amount in amounts.items() if name in family)
    others = {name: amount for name, amount in amounts.items() if name not in family}
    return others | ({to: taken} if taken else {})


def renamed(amounts: Amounts, old: str, new: str) -> Amounts:
    """The amounts by a class's new name."""
    return {new if name == old else name: amount for name, amount in amounts.items()}


def every(shapes: Iterable[Shape]) -> frozenset[str]:
    """Every class that shapes name now."""
    return frozenset(
        name for shape in shapes for of, parts in shape.split.items() for name in (of, *parts)
    )
