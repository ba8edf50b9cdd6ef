"""AccountingService's calls about the ledger: what was booked, is it whole, who owes."""

from itertools import islice

import grpc

from manager.accounting import exact, ledger, rows
from manager.billing import messages
from manager.billing.parts import Billing
from manager.domain import next_page
from watari import audit, paging, validate
from watari.audit import Head, Noted
from watari.v1 import manager_pb2

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""Entries of one page take no more, but for the first: half of what a control message may have."""

VERIFIED_MAX = 10_000
"""Entries that one call verifies: about a second."""

FILTER_BYTES_MAX = 512


class LedgerCalls:
    """The part of AccountingService that is about the ledger."""

    _billing: Billing

    def ListLedgerEntries(
        self, request: manager_pb2.ListLedgerEntriesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListLedgerEntriesResponse:
        size = paging.page_size(request.page_size)
        after = validate.require_range(
            request.after_sequence, "after_sequence", 0, paging.INTEGER_MAX
        )
        for field in ("period", "kind", "subject", "account"):
            validate.require_text(getattr(request, field), field, bytes_max=FILTER_BYTES_MAX)
        with self._billing.store.read() as connection:
            last = rows.head(connection)
            found = rows.find(
                connection,
                after=after,
                limit=size,
                period=request.period,
                kind=request.kind,
                subject=request.subject,
                account=request.account,
            )
        response = manager_pb2.ListLedgerEntriesResponse(
            last_sequence=last.sequence, last_hash=last.hash
        )
        taken = 0
        for each in found:
            entry = messages.entry(each)
            taken += entry.ByteSize()
            if response.entries and taken > PAGE_BYTES_MAX:
                break
            response.entries.append(entry)
        return response

    def VerifyLedger(
        self, request: manager_pb2.VerifyLedgerRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.VerifyLedgerResponse:
        sequence = validate.require_range(
            request.after_sequence, "after_sequence", 0, paging.INTEGER_MAX
        )
        noted = validate.require_range(
            request.noted_sequence, "noted_sequence", 0, paging.INTEGER_MAX
        )
        start = audit.START
        if sequence:
            start = Head(sequence, _hash(request.after_hash, "after_hash"))
        known = _hash(request.noted_hash, "noted_hash") if request.noted_hash else None
        with self._billing.store.read() as connection:
            last = rows.head(connection)
            entries = islice(rows.everything(connection, after=sequence), VERIFIED_MAX)
            reached = min(last.sequence, sequence + VERIFIED_MAX)
            more = reached < last.sequence
            kept = None
            if noted > sequence and (noted <= reached or not more):
                kept = Noted(noted, known)
            found = ledger.verify(entries, after=start, noted=kept)
        return manager_pb2.VerifyLedgerResponse(
            sequence=found.sequence, hash=found.hash, more=found.sequence < last.sequence
        )

    def ListBalances(
        self, request: manager_pb2.ListBalancesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListBalancesResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        validate.require_text(request.prefix, "prefix", bytes_max=FILTER_BYTES_MAX)
        after = paging.decode(query, request.page_token, (str, str)) or ("", "")
        viewer = self._billing.viewer()
        with self._billing.store.read() as connection:
            found = rows.account_page(
                connection,
                prefix=request.prefix,
                only=viewer.accounts,
                after=(after[0], after[1]),
                limit=size + 1,
            )
        return manager_pb2.ListBalancesResponse(
            balances=[
                manager_pb2.Balance(account=account, amount=exact.message(nanos, currency))
                for currency, account, nanos in found[:size]
            ],
            next_page_token=next_page(query, [each[:2] for each in found], size),
        )


def _hash(given: bytes, field: str) -> bytes:
    if len(given) != audit.HASH_BYTES:
        raise validate.invalid_field(field, "is no hash", f"{audit.HASH_BYTES} bytes")
    return given
