"""The ledger: it balances, it is appended to only, and what was done to it is found."""

import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.accounting import booking, exact, invoices, ledger
from manager.accounting.events import Kind
from manager.accounting.ledger import Chained, Entry, Ledger, Posting
from tests.support import accounting_samples as samples
from watari import errors
from watari.audit import Noted

ACCOUNTS = st.sampled_from(["cash", "receivable:tenant:t", "revenue:vcpu", "tax:VAT", "rounding"])
PAYER = "receivable:tenant:acme"


def entry(number: int, *postings: tuple[str, int], **more: object) -> Entry:
    fields: dict[str, object] = {
        "entry_id": f"e{number}",
        "kind": "charge",
        "subject": f"s{number}",
        "description": "words",
        "currency": "EUR",
        "booked_at": number,
    }
    sides = tuple(Posting(*each) for each in postings or (("a", 5), ("b", -5)))
    return Entry(postings=sides, **(fields | more))  # type: ignore[arg-type]


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    """Entries with any amounts that balance."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        sides = draw(st.lists(st.tuples(ACCOUNTS, st.integers(-(10**24), 10**24)), max_size=5))
        sides = [*sides, ("cash", 1), ("revenue:vcpu", -1 - sum(side[1] for side in sides))]
        found.append(entry(number, *sides))
    return found


@given(entries())
def test_whatever_is_posted_the_ledger_balances(found: list[Entry]) -> None:
    booked = Ledger()
    assert booked.post(found) == len(found)
    assert sum(ledger.balances(booked).values()) == 0
    assert ledger.verify(booked.chained) == ledger.head_of(booked.chained[-1])


@given(entries(), st.data())
def test_posting_again_posts_nothing_twice(found: list[Entry], data: st.DataObject) -> None:
    booked = Ledger()
    booked.post(found[: data.draw(st.integers(0, len(found)))])
    booked.post(replace(each, booked_at=each.booked_at + 100) for each in found)
    once = Ledger()
    once.post(found)
    assert ledger.balances(booked) == ledger.balances(once)
    assert len(booked.chained) == len(found)


@pytest.mark.parametrize("postings", [[("a", 5), ("b", -4)], [("a", 0)], [("a", 5), ("", -5)]])
def test_an_entry_that_does_not_balance_or_has_one_side_is_refused(
    postings: list[tuple[str, int]],
) -> None:
    with pytest.raises(errors.InvalidArgument):
        entry(1, *postings)


def test_an_id_that_comes_with_another_content_is_refused() -> None:
    booked = Ledger()
    booked.post([entry(1)])
    with pytest.raises(errors.Conflict) as caught:
        booked.post([entry(1, ("a", 6), ("b", -6))])
    assert caught.value.reason == "ID_REUSED"
    assert len(booked.chained) == 1


CHANGES = {
    "kind": {"kind": "tax"},
    "subject": {"subject": "other"},
    "description": {"description": "other"},
    "currency": {"currency": "JPY"},
    "booked_at": {"booked_at": 77},
    "period": {"period": "2026-03"},
    "start": {"start": 1},
    "end": {"end": 1},
    "refers_to": {"refers_to": "e0"},
    "account": {"postings": (Posting("a", 5), Posting("c", -5))},
    "amount": {"postings": (Posting("a", 6), Posting("b", -6))},
}


def chain_of(count: int) -> list[Chained]:
    booked = Ledger()
    booked.post(entry(number) for number in range(1, count + 1))
    return list(booked.chained)


def fault(chained: list[Chained], noted: Noted | None = None) -> tuple[str, int]:
    with pytest.raises(errors.DataLoss) as caught:
        ledger.verify(chained, noted=noted)
    return caught.value.metadata["fault"], int(caught.value.metadata["sequence"])


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_any_change_of_an_entry_is_found(change: dict[str, object]) -> None:
    chained = chain_of(4)
    chained[1] = replace(chained[1], entry=replace(chained[1].entry, **change))  # type: ignore[arg-type]
    assert fault(chained) == ("altered", 2)
    digest = ledger.digest(2, chained[1].entry, chained[1].previous_hash)
    chained[1] = replace(chained[1], hash=digest)
    assert fault(chained) == ("replaced", 3)


def test_the_hash_is_the_one_that_the_documentation_specifies() -> None:
    booked = Ledger()
    booked.post(booking.charges(samples.rated(), 1))
    previous = bytes(32)
    for each in booked.chained:
        of = each.entry
        told = [each.sequence, of.entry_id, of.kind, of.subject, of.description, of.currency]
        told += [of.booked_at, of.period, of.start, of.end, of.refers_to, len(of.postings)]
        for posting in of.postings:
            told += [posting.account, posting.nanos]
        fields = [str(field).encode() for field in told] + [previous]
        hashed = b"watari ledger entry 1\n"
        for field in fields:
            hashed += struct.pack(">I", len(field)) + field
        previous = hashlib.sha256(hashed).digest()
        assert each.hash == previous


def test_a_removed_entry_and_a_lost_end_are_found() -> None:
    chained = chain_of(4)
    last = chained[-1]
    assert fault([*chained[:1], *chained[2:]]) == ("missing", 2)
    for noted in (Noted(4, last.hash), Noted(sequence=4), Noted(hash=last.hash)):
        assert fault(chained[:3], noted) == ("cut_off", 4)
        assert ledger.verify(chained, noted=noted).sequence == 4
    assert fault(chained, Noted(2, b"x" * 32)) == ("replaced", 2)


def test_a_charge_touches_the_accounts_of_payer_component_and_discount() -> None:
    booked = Ledger()
    booked.post(booking.charges(samples.rated(), 1))
    balances = {account: nanos for (_, account), nanos in ledger.balances(booked).items()}
    of = samples.rated()
    assert balances[PAYER] == sum(line.net_nanos for line in of.lines) + of.taxes[0].nanos
    assert balances["tax:VAT"] == -of.taxes[0].nanos
    assert balances["revenue:vcpu"] < 0 < balances["discounts:vcpu"]
    assert abs(10 * balances["discounts:vcpu"] + balances["revenue:vcpu"]) < 10 * len(of.lines)


def test_a_correction_refers_to_what_it_corrects_and_comes_with_a_later_invoice() -> None:
    booked = Ledger()
    booked.post(booking.charges(samples.rated(), 1))
    told = [each for each in samples.events() if each.kind is not Kind.DEPARTED]
    right = samples.rated(told)

    def correct(name: str) -> list[Entry]:
        return list(booking.corrections(booked, right, correction_id=name, reason="r", booked_at=2))

    found = correct("c1")
    booked.post(found)
    by_id = {each.entry_id: each for each in booked}
    gone = next(each for each in found if "migration out" in each.description)
    assert by_id[gone.refers_to].postings == tuple(
        Posting(each.account, -each.nanos) for each in gone.postings
    )
    assert correct("c1") == []
    april = invoices.issue(
        samples.rated(told, invoices.Month("2026-04", "UTC", right.month.end, right.month.end + 1)),
        "tenant:acme",
        issuer=samples.ISSUER,
        customer=samples.CUSTOMER,
        issued_at=3,
        corrections=found,
    )
    owed = sum(line.net_nanos for line in right.lines) + sum(tax.nanos for tax in right.taxes)
    assert samples.invoice().exact_nanos + april.correction_nanos == owed
    assert ledger.balances(booked)["EUR", PAYER] == owed


def test_a_correction_needs_an_id_of_its_own() -> None:
    with pytest.raises(errors.InvalidArgument):
        list(booking.corrections([], samples.rated(), correction_id="", reason="", booked_at=0))


@pytest.mark.parametrize("upheld", [True, False])
def test_a_dispute_is_kept_apart_until_it_is_decided(upheld: bool) -> None:
    booked = Ledger()
    booked.post(booking.charges(samples.rated(), 1))
    charge = next(iter(booked))
    before = ledger.balances(booked)["EUR", PAYER]
    disputed = booking.dispute(
        charge, 7, payer="tenant:acme", dispute_id="d1", reason="not ours", booked_at=2
    )
    booked.post([disputed, disputed])
    assert ledger.balances(booked)["EUR", PAYER] == before - 7
    assert ledger.balances(booked)["EUR", "disputed:tenant:acme"] == 7
    booked.post(
        [
            booking.decide(
                disputed, 7, payer="tenant:acme", upheld=upheld, reason="seen", booked_at=3
            )
        ]
    )
    balances = ledger.balances(booked)
    assert balances["EUR", "disputed:tenant:acme"] == 0
    assert balances["EUR", PAYER] == before - (7 if upheld else 0)
    assert balances.get(("EUR", "credits"), 0) == (7 if upheld else 0)
    assert sum(balances.values()) == 0


def test_amounts_are_written_as_they_are() -> None:
    assert [exact.text(nanos) for nanos in (0, 1, -1, 10**9, -1_500_000_000)] == [
        "0",
        "0.000000001",
        "-0.000000001",
        "1",
        "-1.5",
    ]
    assert exact.text(10**9, decimals_min=2) == "1.00"
    assert exact.message(-1_500_000_000, "EUR").nanos == -500_000_000
