"""The ledger: double entry, append only, chained by hashes. Functions of values, but for `Ledger`,
which is the same in memory.

An entry has two postings or more, which sum to zero in every currency. Its id follows from what it
records, so that recording it again changes nothing. What was wrong is put right by a new entry
that refers to the old one. Each entry holds the hash of the one before it, as in the audit log;
docs/accounting.md specifies the bytes that are hashed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from manager.accounting import exact
from watari import errors, validate
from watari.audit import START, Head, Noted

POSTINGS_MAX = 64
"""Most postings of one entry."""

TEXT_BYTES_MAX = 512
"""Longest account, subject and description."""

NANOS_MAX = (2**63 - 1) * exact.NANOS
"""Largest amount: what the contract's Money holds."""

_DOMAIN = b"watari ledger entry 1\n"


@dataclass(frozen=True)
class Posting:
    """One side: positive is debit."""

    account: str
    nanos: int


@dataclass(frozen=True)
class Entry:
    """One booking. Raises InvalidArgument INVALID_FIELD when it does not balance."""

    entry_id: str
    kind: str
    """"charge", "tax", "correction", ...: booking.py has them all."""
    subject: str
    """What it is about: the charge, the invoice or the statement (an id)."""
    description: str
    currency: str
    postings: tuple[Posting, ...]
    booked_at: int
    """Microseconds since 1970. The only thing that may differ when an entry is made again."""
    period: str = ""
    """The billing month that it belongs to, as in "2026-03"."""
    start: int = 0
    """The time that it charges for, [start, end), microseconds since 1970; 0 for none."""
    end: int = 0
    refers_to: str = ""
    """The entry that it corrects or disputes."""

    def __post_init__(self) -> None:
        validate.require_range(len(self.postings), "postings", 2, POSTINGS_MAX)
        for name in ("entry_id", "kind", "currency"):
            if not getattr(self, name):
                raise validate.invalid_field(name, "must not be empty", "every entry has it")
        for posting in self.postings:
            validate.require_text(posting.account, "account", bytes_max=TEXT_BYTES_MAX, empty=False)
            validate.require_range(posting.nanos, "amount", -NANOS_MAX, NANOS_MAX)
        off = sum(posting.nanos for posting in self.postings)
        if off:
            raise validate.invalid_field(
                "postings",
                f"entry {self.entry_id} is off balance by {exact.text(off)} {self.currency}",
                "debits and credits of an entry sum to zero",
            )


@dataclass(frozen=True)
class Chained:
    """An entry where it stands in the ledger."""

    sequence: int
    entry: Entry
    previous_hash: bytes
    hash: bytes


class Ledger:
    """A ledger in memory."""

    def __init__(self) -> None:
        self._chained: list[Chained] = []
        self._by_id: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return (each.entry for each in self._chained)

    @property
    def chained(self) -> Sequence[Chained]:
        """All of it, oldest first."""
        return tuple(self._chained)

    def post(self, entries: Iterable[Entry]) -> int:
        """Append those that are not here yet; how many were. Raises Conflict ID_REUSED."""
        count = len(self._chained)
        for entry in entries:
            known = self._by_id.get(entry.entry_id)
            if known is None:
                head = head_of(self._chained[-1]) if self._chained else START
                self._chained.append(chain(head, entry))
                self._by_id[entry.entry_id] = entry
            else:
                require_same(known, entry)
        return len(self._chained) - count


def require_same(known: Entry, again: Entry) -> None:
    """An entry that is made again says the same. Raises Conflict ID_REUSED."""
    if replace(again, booked_at=known.booked_at) != known:
        raise exact.reused("ledger entry", known.entry_id)


def chain(previous: Head, entry: Entry) -> Chained:
    """The entry as the one that follows `previous`."""
    sequence = previous.sequence + 1
    return Chained(sequence, entry, previous.hash, digest(sequence, entry, previous.hash))


def head_of(last: Chained) -> Head:
    """The head of a ledger that ends with this entry."""
    return Head(last.sequence, last.hash)


def digest(sequence: int, entry: Entry, previous_hash: bytes) -> bytes:
    """The hash of an entry where it stands."""
    hashed = hashlib.sha256(_DOMAIN)
    for field in _fields(sequence, entry, previous_hash):
        hashed.update(len(field).to_bytes(4, "big") + field)
    return hashed.digest()


def verify(chained: Iterable[Chained], *, after: Head = START, noted: Noted | None = None) -> Head:
    """Go through a ledger that follows `after`; the head that it leads to.

    Raises DataLoss LEDGER_CHAIN_BROKEN, metadata `sequence` and `fault`: "missing", "altered" or
    "replaced", and with a head that was kept elsewhere "cut_off".
    """
    kept = noted or Noted()
    head, seen = after, kept.hash in (None, after.hash)
    for each in chained:
        if each.sequence != head.sequence + 1:
            raise broken(head.sequence + 1, "missing")
        if each.hash != digest(each.sequence, each.entry, each.previous_hash):
            raise broken(each.sequence, "altered")
        if each.previous_hash != head.hash:
            raise broken(each.sequence, "replaced")
        head = head_of(each)
        seen = seen or each.hash == kept.hash
        if each.sequence == kept.sequence and not seen:
            raise broken(each.sequence, "replaced")
    if not seen or (kept.sequence or 0) > head.sequence:
        raise broken(head.sequence + 1, "cut_off")
    return head


def balances(entries: Iterable[Entry]) -> dict[tuple[str, str], int]:
    """What each account holds, by currency and account, in nanos; those at zero too."""
    found: dict[tuple[str, str], int] = {}
    for entry in entries:
        for posting in entry.postings:
            key = (entry.currency, posting.account)
            found[key] = found.get(key, 0) + posting.nanos
    return found


def by_subject(entries: Iterable[Entry], kinds: frozenset[str]) -> dict[str, dict[str, int]]:
    """For entries of these kinds: by subject, what is posted for it on each account."""
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        if entry.kind in kinds:
            accounts = found.setdefault(entry.subject, {})
            for posting in entry.postings:
                accounts[posting.account] = accounts.get(posting.account, 0) + posting.nanos
    return found


def postings(accounts: Mapping[str, int]) -> tuple[Posting, ...]:
    """Postings of the accounts on which something changes, by name."""
    return tuple(Posting(name, nanos) for name, nanos in sorted(accounts.items()) if nanos)


def broken(sequence: int, fault: str) -> errors.DataLoss:
    """The error for a ledger that is not what was written."""
    return errors.DataLoss(
        "LEDGER_CHAIN_BROKEN",
        f"the ledger is not what was written: entry {sequence} is {fault.replace('_', ' ')}",
        hint="keep a copy of it as it is, compare it with earlier exports, and find out who could "
        "write to the manager's database",
        sequence=sequence,
        fault=fault,
    )


def _fields(sequence: int, entry: Entry, previous_hash: bytes) -> Iterator[bytes]:
    yield str(sequence).encode()
    for text in (
        entry.entry_id,
        entry.kind,
        entry.subject,
        entry.description,
        entry.currency,
        str(entry.booked_at),
        entry.period,
        str(entry.start),
        str(entry.end),
        entry.refers_to,
        str(len(entry.postings)),
    ):
        yield text.encode()
    for posting in entry.postings:
        yield posting.account.encode()
        yield str(posting.nanos).encode()
    yield previous_hash
