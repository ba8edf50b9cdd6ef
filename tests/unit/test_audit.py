"""The chain of audit entries: whatever is done to a log is found, and named."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import audit, errors
from watari.audit import Head, Noted
from watari.v1.audit_pb2 import AuditEntry

TEXTS = st.text(max_size=20)
NEW = st.builds(
    audit.entry,
    actor=TEXTS,
    action=TEXTS,
    subject=TEXTS,
    outcome=st.sampled_from([audit.DONE, audit.REFUSED]),
    details=st.dictionaries(TEXTS, TEXTS, max_size=4),
)


@st.composite
def logs(draw: st.DrawFn, least: int = 1) -> list[AuditEntry]:
    """A log as it was written."""
    head, written = audit.START, []
    for new in draw(st.lists(NEW, min_size=least, max_size=8)):
        new.occurred_at.seconds = draw(st.integers(0, 2**33))
        new.occurred_at.nanos = draw(st.integers(0, 999_999)) * 1000
        written.append(audit.chain(head, new))
        head = audit.head_of(written[-1])
    return written


def fault(entries: Sequence[AuditEntry], **how: object) -> tuple[str, int]:
    """How a log is found to be wrong, and where first."""
    with pytest.raises(errors.DataLoss) as caught:
        audit.verify(entries, **how)  # type: ignore[arg-type]
    assert caught.value.reason == "AUDIT_CHAIN_BROKEN"
    return caught.value.metadata["fault"], int(caught.value.metadata["sequence"])


@given(logs())
def test_a_log_as_it_was_written_leads_to_its_head(log: list[AuditEntry]) -> None:
    assert audit.verify(log) == (len(log), log[-1].hash)
    for noted in log:
        assert audit.verify(log, noted=Noted(noted.sequence, noted.hash)) == audit.head_of(log[-1])
        assert audit.verify(log, noted=Noted(hash=noted.hash)) == audit.head_of(log[-1])


def test_an_empty_log_is_sound() -> None:
    assert audit.verify([]) == audit.START
    assert audit.verify([], noted=Noted(*audit.START)) == audit.START


@given(logs(least=2), st.data())
def test_a_part_of_a_log_is_verified_from_where_it_begins(
    log: list[AuditEntry], data: st.DataObject
) -> None:
    at = data.draw(st.integers(1, len(log) - 1))
    assert audit.verify(log[at:], after=audit.head_of(log[at - 1])) == audit.head_of(log[-1])
    assert fault(log[at:], after=Head(at, bytes(32))) == ("replaced", at + 1)


CHANGES = {
    "actor": lambda entry: setattr(entry, "actor", entry.actor + "x"),
    "action": lambda entry: setattr(entry, "action", entry.action + "x"),
    "subject": lambda entry: setattr(entry, "subject", "x" + entry.subject),
    "outcome": lambda entry: setattr(entry, "outcome", 3 - entry.outcome),
    "seconds": lambda entry: setattr(entry.occurred_at, "seconds", entry.occurred_at.seconds - 1),
    "nanos": lambda entry: setattr(entry.occurred_at, "nanos", entry.occurred_at.nanos + 1),
    "more": lambda entry: entry.details.update({"another": ""}),
    "other": lambda entry: entry.details.update({n: v + "x" for n, v in entry.details.items()}),
    "fewer": lambda entry: entry.details.clear(),
    "boundary": lambda entry: (
        setattr(entry, "actor", entry.actor + entry.action),
        setattr(entry, "action", ""),
    ),
    "previous": lambda entry: setattr(entry, "previous_hash", bytes(31) + b"\1"),
    "hash": lambda entry: setattr(entry, "hash", bytes(31) + b"\1"),
}


@given(logs(), st.sampled_from(sorted(CHANGES)), st.data())
def test_any_change_of_an_entry_is_found_where_it_is(
    log: list[AuditEntry], change: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(log) - 1))
    before = log[at].SerializeToString(deterministic=True)
    CHANGES[change](log[at])
    if log[at].SerializeToString(deterministic=True) != before:
        assert fault(log) == ("altered", at + 1)


@given(logs(least=2), st.data())
def test_an_entry_that_is_changed_and_hashed_anew_does_not_lead_to_the_next(
    log: list[AuditEntry], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(log) - 2))
    log[at].subject += "x"
    log[at].hash = audit.digest(log[at])
    assert fault(log) == ("replaced", at + 2)


@given(logs(least=2), st.data())
def test_any_removal_is_found_where_it_is_but_for_the_end(
    log: list[AuditEntry], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(log) - 2))
    del log[at]
    assert fault(log) == ("missing", at + 1)


@given(logs(least=2), st.data())
def test_any_swap_is_found(log: list[AuditEntry], data: st.DataObject) -> None:
    first, second = data.draw(st.lists(st.sampled_from(range(len(log))), min_size=2, unique=True))[
        :2
    ]
    log[first], log[second] = log[second], log[first]
    assert fault(log) == ("missing", min(first, second) + 1)


@given(logs(), NEW, st.data())
def test_any_insertion_is_found(
    log: list[AuditEntry], new: AuditEntry, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(log) - 1))
    before = audit.START if at == 0 else audit.head_of(log[at - 1])
    new.subject += "new"
    log.insert(at, audit.chain(before, new))
    assert fault(log) == ("out_of_order", at + 2)


@given(logs(), st.data())
def test_a_log_that_was_cut_off_is_found_by_whoever_noted_a_later_head(
    log: list[AuditEntry], data: st.DataObject
) -> None:
    noted, left = log[-1], data.draw(st.integers(0, len(log) - 1))
    for kept in (
        Noted(noted.sequence, noted.hash),
        Noted(sequence=noted.sequence),
        Noted(hash=noted.hash),
    ):
        assert fault(log[:left], noted=kept) == ("cut_off", left + 1)
    assert audit.verify(log[:left]).sequence == left


@given(logs(), NEW)
def test_a_log_that_was_written_anew_is_found_by_whoever_noted_a_head(
    log: list[AuditEntry], new: AuditEntry
) -> None:
    noted = audit.head_of(log[-1])
    new.subject += "new"
    head, anew = audit.START, []
    for each in [new, *log]:
        anew.append(audit.chain(head, each))
        head = audit.head_of(anew[-1])
    assert audit.verify(anew) == head
    assert fault(anew, noted=Noted(*noted)) == ("replaced", noted.sequence)
    assert fault(anew, noted=Noted(hash=noted.hash)) == ("cut_off", len(anew) + 1)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=20))
def test_whatever_is_told_fits_the_contract(text: str, long: str, details: dict[str, str]) -> None:
    long = (long or "\N{HIRAGANA LETTER A}") * 600
    made = audit.entry(actor=text, action=long, subject=long, details=details | {text: long})
    assert len(made.action.encode()) <= audit.ACTION_BYTES_MAX
    assert len(made.subject.encode()) <= audit.TEXT_BYTES_MAX
    assert len(made.details) <= audit.DETAILS_MAX
    for name, value in made.details.items():
        assert len(name.encode()) <= audit.DETAIL_NAME_BYTES_MAX
        assert len(value.encode()) <= audit.TEXT_BYTES_MAX
    assert made.ByteSize() + 2 * audit.HASH_BYTES < audit.ENTRY_BYTES_MAX


def test_text_that_is_no_unicode_is_told_with_replacements() -> None:
    made = audit.entry(actor="\ud800", action="a", subject="s", details={"n": "\udfff"})
    assert (made.actor, made.details["n"]) == ("?", "?")


def test_values_under_the_names_of_secrets_are_never_told() -> None:
    details = {"token": "t0p", "private_key": "k3y", "api_secret": "s", "reservation_id": "r"}
    made = audit.entry(actor="a", action="a", subject="s", details=details)
    assert dict(made.details) == {
        "token": "[redacted]",
        "private_key": "[redacted]",
        "api_secret": "[redacted]",
        "reservation_id": "r",
    }
