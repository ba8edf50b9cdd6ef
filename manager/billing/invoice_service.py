"""AccountingService's calls about invoices."""

from collections.abc import Iterator
from itertools import islice

import grpc
from sqlalchemy.engine import Connection

from manager.accounting import exact, focus, invoice_documents, periods, rendering, rows
from manager.accounting.invoices import Invoice
from manager.billing import messages
from manager.billing import rows as billed
from manager.billing.parts import Billing
from manager.billing.viewers import Viewer
from manager.domain import next_page
from watari import errors, paging, rpc, validate
from watari.v1 import manager_pb2

CHUNK_BYTES = 256 * 1024
"""Of a document, in one message."""

REASON_BYTES_MAX = 256
NUMBER_BYTES_MAX = 128
PAYER_BYTES_MAX = 512

_FORMATS = manager_pb2.InvoiceFormat


class InvoiceCalls:
    """The part of AccountingService that is about invoices."""

    _billing: Billing

    def IssueInvoices(
        self, request: manager_pb2.IssueInvoicesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.IssueInvoicesResponse:
        month = periods.labelled(request.period, self._billing.zone)
        issued, count, at = self._billing.invoicing.issue(month.label, rpc.current_peer())
        return manager_pb2.IssueInvoicesResponse(
            issued=issued, invoices=count, issued_at=messages.timestamp(at)
        )

    def CorrectMonth(
        self, request: manager_pb2.CorrectMonthRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.CorrectMonthResponse:
        validate.require_uuid(request.correction_id, "correction_id")
        month = periods.labelled(request.period, self._billing.zone)
        validate.require_text(request.reason, "reason", bytes_max=REASON_BYTES_MAX, empty=False)
        posted, currency = self._billing.invoicing.correct(
            month.label, request.correction_id, request.reason, rpc.current_peer()
        )
        changed = sum(
            posting.nanos
            for entry in posted
            for posting in entry.postings
            if posting.account.startswith("receivable:")
        )
        return manager_pb2.CorrectMonthResponse(
            entries=len(posted), amount=exact.message(changed, currency)
        )

    def ListInvoices(
        self, request: manager_pb2.ListInvoicesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListInvoicesResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        validate.require_text(request.payer, "payer", bytes_max=PAYER_BYTES_MAX)
        if request.period:
            periods.labelled(request.period, self._billing.zone)
        before = paging.decode(query, request.page_token, (int, str))
        viewer = self._billing.viewer()
        payer = request.payer or viewer.payer
        if payer is not None and not viewer.sees(payer):
            return manager_pb2.ListInvoicesResponse()
        with self._billing.store.read() as connection:
            found = billed.invoice_heads(
                connection,
                payer=payer,
                period=request.period,
                before=None if before is None else (before[0], before[1]),
                limit=size + 1,
            )
        positions = [(each.issued_at.ToMicroseconds(), each.invoice_id) for each in found]
        return manager_pb2.ListInvoicesResponse(
            invoices=found[:size], next_page_token=next_page(query, positions, size)
        )

    def GetInvoice(
        self, request: manager_pb2.GetInvoiceRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetInvoiceResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (start,) = paging.decode(query, request.page_token, (int,)) or (0,)
        viewer = self._billing.viewer()
        with self._billing.store.read() as connection:
            head, document = _found(connection, request.invoice_id, viewer)
        found = list(islice(messages.lines(messages.parsed(document)), start, start + size + 1))
        head.lines.extend(found[:size])
        more = len(found) > size
        return manager_pb2.GetInvoiceResponse(
            invoice=head, next_page_token=paging.encode(query, (start + size,)) if more else ""
        )

    def ExportInvoice(
        self, request: manager_pb2.ExportInvoiceRequest, _context: grpc.ServicerContext
    ) -> Iterator[manager_pb2.ExportInvoiceResponse]:
        known = _FORMATS.values()[1:]
        if request.format not in known:
            raise validate.invalid_field(
                "format", f"{request.format} is none", "JSON, CSV, HTML or FOCUS"
            )
        viewer = self._billing.viewer()
        with self._billing.store.read() as connection:
            _, document = _found(connection, request.invoice_id, viewer)
            if request.format != manager_pb2.INVOICE_FORMAT_JSON:
                document = self._written(_read(connection, document), request.format)
        content = document.encode()
        for at in range(0, len(content), CHUNK_BYTES):
            yield manager_pb2.ExportInvoiceResponse(content=content[at : at + CHUNK_BYTES])

    def _written(self, invoice: Invoice, how: "manager_pb2.InvoiceFormat.ValueType") -> str:
        if how == manager_pb2.INVOICE_FORMAT_CSV:
            return rendering.to_csv(invoice)
        if how == manager_pb2.INVOICE_FORMAT_HTML:
            return rendering.to_html(invoice)
        return focus.to_csv(invoice, self._billing.region)


def _found(connection: Connection, key: str, viewer: Viewer) -> tuple[manager_pb2.Invoice, str]:
    """An invoice that the viewer may see. Raises NotFound RECORD_NOT_FOUND."""
    validate.require_text(key, "invoice_id", bytes_max=NUMBER_BYTES_MAX, empty=False)
    head = billed.invoice_head(connection, key)
    document = None if head is None else rows.invoice_document(connection, head.invoice_id)
    if head is None or document is None or not viewer.sees(head.payer):
        raise errors.NotFound(
            "RECORD_NOT_FOUND",
            f"there is no invoice {key}",
            hint="`watari invoice list` shows those that there are",
        )
    return head, document


def _read(connection: Connection, document: str) -> Invoice:
    parsed = messages.parsed(document)
    corrections = [each["entry_id"] for each in parsed["corrections"]]
    return invoice_documents.read(
        parsed, rows.book(connection), rows.entries(connection, corrections)
    )
