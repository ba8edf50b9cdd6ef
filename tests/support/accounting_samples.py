"""A small month for the accounting's tests: one tenant and one peer, three machines."""

from pathlib import Path

from manager.accounting import periods
from manager.accounting.events import Event, Kind
from manager.accounting.invoices import Invoice, Party, issue
from manager.accounting.ledger import Entry
from manager.accounting.metering import meter
from manager.accounting.periods import MICROS, Month
from manager.accounting.price_sheet import PriceBook
from manager.accounting.rating import Rated, rate
from manager.accounting.sheet_documents import from_toml

GIB = 1024**3
HOUR = 3600 * MICROS
MARCH = periods.month(2026, 3, "Europe/Berlin")
ISSUED = MARCH.end + 6 * HOUR

SHEET = Path(__file__).parents[2] / "docs" / "price-sheet.toml"
BOOK = PriceBook([from_toml(SHEET.read_text())])

ISSUER = Party("Nordlicht Cloud", ("Speicherstadt 4", "20457 Hamburg", "Germany"), "DE 123 456 789")
CUSTOMER = Party("Acme Analytics", ("12 Harbour Road", "Rotterdam", "Netherlands"), "NL 987654321")


def events(name: str = "web") -> list[Event]:
    """What happened in the month to the tenant's three machines; `name` is that of the first."""
    numbers = iter(range(1, 100))

    def tell(
        kind: Kind, hours: float, vm: int, size: tuple[int, int, int], **more: object
    ) -> Event:
        number = next(numbers)
        vcpus, memory, disk = size
        return Event(
            event_id=f"e{number}",
            sequence=number,
            cloud_id="hamburg",
            kind=kind,
            at=MARCH.start + round(hours * HOUR),
            vm_id=f"0b54e1d4-0000-4000-8000-{vm:012}",
            payer="tenant:acme",
            tenant="acme",
            vm_name=[name, "database", "batch"][vm],
            resources={
                "vcpus": vcpus,
                "memory_bytes": memory * GIB,
                "disk_bytes": disk * GIB,
                "addresses": int(vm == 0),
            },
            **more,  # type: ignore[arg-type]
        )

    small, large, batch = (2, 4, 40), (4, 16, 400), (8, 32, 100)
    return [
        tell(Kind.STARTED, -100, 0, small),
        tell(Kind.STARTED, 30.5, 1, small),
        tell(Kind.RESIZED, 200, 1, large),
        tell(Kind.STARTED, 100, 2, batch),
        tell(Kind.STOPPED, 181.75, 2, batch),
        tell(Kind.STARTED, 300, 2, batch),
        tell(Kind.STOPPED, 300.01, 2, batch),
        tell(Kind.STARTED, 350, 2, batch),
        tell(Kind.DEPARTED, 402.3, 2, batch, peer="osaka", sent_bytes=17 * GIB + 123_456_789),
    ]


def rated(told: list[Event] | None = None, period: Month = MARCH) -> Rated:
    """The month rated."""
    return rate(meter(events() if told is None else told, period.end), BOOK, period, "hamburg")


def invoice(of: Rated | None = None, corrections: tuple[Entry, ...] = ()) -> Invoice:
    """The tenant's invoice."""
    return issue(
        of or rated(),
        "tenant:acme",
        issuer=ISSUER,
        customer=CUSTOMER,
        issued_at=ISSUED,
        corrections=corrections,
    )
