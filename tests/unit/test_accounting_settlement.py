"""Settlement: what both providers have alike is netted, and what they do not is shown."""

from dataclasses import replace

from manager.accounting import booking, ledger, mirroring, settlement
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.ledger import Ledger
from manager.accounting.metering import meter
from manager.accounting.rating import rate
from manager.accounting.settlement import Compared, Opened
from tests.support import accounting_samples as samples
from tests.support.accounting_samples import BOOK, HOUR, MARCH

SIZE = {"vcpus": 2, "memory_bytes": 2**30, "disk_bytes": 2**34}


def own(kind: Kind, hours: int, **more: object) -> Event:
    """What the provider of the tenant recorded itself, at its cloud osaka."""
    return Event(
        f"{kind.value}{hours}",
        hours,
        "osaka",
        kind,
        MARCH.start + hours * HOUR,
        "vm",
        "tenant:t",
        "t",
        resources=SIZE,
        running=True,
        peer="hamburg",
        migration_id=f"m{hours}",
        **more,  # type: ignore[arg-type]
    )


BYTES = 5 * 2**30
OUT_AND_BACK = [
    own(Kind.DEPARTED, 10, sent_bytes=999),
    own(Kind.ARRIVED, 50, received_bytes=BYTES),
]
EXPECTED = list(mirroring.mirrored(OUT_AND_BACK, "hamburg", "peer:o.example", {}))


def owed(events: list[Event]) -> settlement.Owed:
    rated = rate(meter(events, MARCH.end), BOOK, MARCH, "hamburg")
    return settlement.owed(booking.charges(rated, 0), "peer:o.example", "2026-03")


def claim(billed: list[Event]) -> settlement.Claim:
    return settlement.claim("h.example", "o.example", owed(billed), owed(EXPECTED))


def test_a_mirrored_migration_is_the_other_side_of_the_same_instant() -> None:
    arrived, departed = EXPECTED
    assert (arrived.kind, arrived.at, arrived.received_bytes) == (
        Kind.ARRIVED,
        OUT_AND_BACK[0].at,
        999,
    )
    assert (departed.kind, departed.at, departed.sent_bytes) == (
        Kind.DEPARTED,
        OUT_AND_BACK[1].at,
        BYTES,
    )
    quotes = {"m10": Pin(4, MARCH.end)}
    quoted = list(mirroring.mirrored(OUT_AND_BACK, "hamburg", "peer:o.example", quotes))
    assert [event.pin for event in quoted] == [Pin(4, MARCH.end), None]
    elsewhere = [replace(event, peer="kyoto") for event in OUT_AND_BACK]
    assert list(mirroring.mirrored(elsewhere, "hamburg", "peer:o.example", {})) == []


def test_a_bill_that_both_work_out_alike_is_agreed_as_a_whole() -> None:
    found = claim(EXPECTED)
    assert found.disputes == ()
    assert found.agreed_nanos == found.billed_nanos > 0


def test_a_bill_for_an_hour_too_many_is_disputed_line_by_line_and_the_rest_agreed() -> None:
    longer = [EXPECTED[0], replace(EXPECTED[1], at=EXPECTED[1].at + HOUR)]
    found = claim(longer)
    words = {dispute.description for dispute in found.disputes}
    assert words == {"vcpu of vm, tier 1", "memory of vm", "disk of vm", "VAT 19 %"}
    for dispute in found.disputes:
        assert dispute.billed_nanos > dispute.expected_nanos > 0
    disputed = sum(dispute.billed_nanos for dispute in found.disputes)
    assert found.agreed_nanos == found.billed_nanos - disputed > 0


def test_a_machine_that_was_never_there_is_disputed_with_nothing_expected() -> None:
    ghost = replace(EXPECTED[0], event_id="g", vm_id="ghost", vm_name="ghost")
    found = claim([*EXPECTED, ghost])
    ghosts = [dispute for dispute in found.disputes if "ghost" in dispute.description]
    assert ghosts
    assert {dispute.expected_nanos for dispute in ghosts} == {0}


def test_what_was_forgotten_to_be_billed_is_shown_too() -> None:
    found = claim([EXPECTED[0], replace(EXPECTED[1], sent_bytes=0)])
    tax, egress = sorted(found.disputes, key=lambda dispute: dispute.description)
    assert egress.description == "egress of vm, tier 2"
    assert (egress.billed_nanos, egress.expected_nanos) == (0, 280_000_000)
    assert 0 < tax.billed_nanos < tax.expected_nanos


def test_netting_leaves_the_difference_and_the_ledger_balances() -> None:
    ours = settlement.Claim("h", "o", (Compared("a", "w", 90, 90), Compared("c", "w", 10, 0)))
    theirs = settlement.Claim("o", "h", (Compared("b", "w", 40, 40),))
    found = settlement.statement(MARCH, "EUR", ours, theirs)
    mirror = settlement.statement(MARCH, "EUR", theirs, ours)
    assert (found.net_nanos, mirror.net_nanos) == (50, -50)
    assert found.statement_id == mirror.statement_id
    booked = Ledger()
    booked.post(
        [
            booking.between(
                "charge",
                "receivable:peer:o",
                "revenue:vcpu",
                100,
                subject="s",
                words="w",
                currency="EUR",
                booked_at=0,
            )
        ]
    )
    for _ in range(2):
        booked.post(settlement.entries(found, 1))
    assert ledger.balances(booked) == {
        ("EUR", "receivable:peer:o"): 60,
        ("EUR", "revenue:vcpu"): -100,
        ("EUR", "purchases:peer:o"): 40,
        ("EUR", "payable:peer:o"): 0,
    }


def test_corrections_are_part_of_what_is_owed() -> None:
    booked = Ledger()
    booked.post(booking.charges(samples.rated(), 0))
    right = samples.rated(samples.events()[:-1])
    booked.post(booking.corrections(booked, right, correction_id="c", reason="r", booked_at=1))
    after = settlement.owed(booked, "tenant:acme", "2026-03")
    wanted = settlement.owed(booking.charges(right, 0), "tenant:acme", "2026-03")
    amounts = {charge: due.nanos for charge, due in after.items() if due.nanos}
    assert amounts == {charge: due.nanos for charge, due in wanted.items()}


def test_what_the_debtor_disputes_of_a_charge_that_both_have_alike_is_not_agreed() -> None:
    bill = owed(EXPECTED)
    charge_id, due = next((key, each) for key, each in bill.items() if each.nanos > 4)

    def after(*opened: Opened, as_of: int | None = None) -> settlement.Claim:
        return settlement.claim(
            "h.example", "o.example", bill, bill, settlement.held(opened, as_of)
        )

    whole = after()
    dispute = Opened(charge_id, 4, opened_at=10)
    found = after(dispute)
    (shown,) = found.disputes
    assert (shown.charge_id, shown.held_nanos) == (charge_id, 4)
    assert shown.billed_nanos == shown.expected_nanos == due.nanos
    assert found.billed_nanos == whole.billed_nanos
    assert found.agreed_nanos == whole.agreed_nanos - 4
    rejected, upheld = (replace(dispute, credited_nanos=n, decided_at=20) for n in (0, 4))
    assert after(rejected) == whole
    assert after(upheld) == found, "what was credited is not owed"
    assert after(replace(dispute, credited_nanos=1, decided_at=20)).agreed_nanos == (
        whole.agreed_nanos - 1
    )


def test_a_month_that_one_side_has_netted_is_netted_by_the_other_as_it_was_then() -> None:
    open_then = Opened("a", 4, opened_at=10, credited_nanos=0, decided_at=30)
    decided_then = Opened("b", 3, opened_at=10, credited_nanos=1, decided_at=19)
    later = Opened("c", 2, opened_at=20)
    everything = (open_then, decided_then, later)
    assert settlement.held(everything, 20) == {"a": 4, "b": 1}
    assert settlement.held(everything, None) == {"b": 1, "c": 2}
