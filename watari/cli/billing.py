"""The money of a cloud as the commands see it: one method a call, whole lists."""

import uuid
from collections.abc import Iterator

from watari import audit, errors, rpc
from watari.audit import Head
from watari.cli.calls import PAGE_SIZE, pages
from watari.cli.clients import Manager
from watari.v1 import common_pb2, manager_pb2, manager_pb2_grpc

WORK_SECONDS_MAX = 300.0
"""Deadline in seconds of a call for which a month is rated, or another provider is asked."""

EXPORT_BYTES_MAX = 1 << 30
"""Largest document that is fetched."""


class Money:
    """A cloud's manager, about money."""

    def __init__(self, manager: Manager) -> None:
        self.cloud_id = manager.cloud_id
        self._peer = manager.peer
        self._patient = manager.peer.patient(WORK_SECONDS_MAX)
        self._stub = manager_pb2_grpc.AccountingServiceStub(manager.peer.channel)

    def put_sheet(self, document: str) -> manager_pb2.PriceSheetVersion:
        """Records a version of the price sheet; repeating it is safe."""
        request = manager_pb2.PutPriceSheetRequest(document=document)
        return self._peer.change(self._stub.PutPriceSheet, request).sheet

    def sheets(self) -> list[manager_pb2.PriceSheetVersion]:
        """All versions without their documents, newest first."""
        return pages(
            lambda token: self._peer.read(
                self._stub.ListPriceSheets,
                manager_pb2.ListPriceSheetsRequest(page_size=PAGE_SIZE, page_token=token),
            ),
            lambda page: page.sheets,
        )

    def sheet(self, version: int = 0) -> manager_pb2.PriceSheetVersion:
        """A version; 0 is the one in effect."""
        request = manager_pb2.GetPriceSheetRequest(version=version)
        return self._peer.read(self._stub.GetPriceSheet, request).sheet

    def head(self) -> Head:
        """The newest entry of the ledger."""
        request = manager_pb2.ListLedgerEntriesRequest(after_sequence=2**63 - 1, page_size=1)
        found = self._peer.read(self._stub.ListLedgerEntries, request)
        return Head(found.last_sequence, found.last_hash)

    def entries(self, after: int = 0, **filters: str) -> Iterator[manager_pb2.LedgerEntry]:
        """Entries after a number, oldest first, as they are asked for."""
        request = manager_pb2.ListLedgerEntriesRequest(
            after_sequence=after, page_size=PAGE_SIZE, **filters
        )
        while True:
            page = self._peer.read(self._stub.ListLedgerEntries, request).entries
            if not page:
                return
            yield from page
            request.after_sequence = page[-1].sequence

    def verify(self, noted: Head | None) -> Iterator[Head]:
        """Verifies the ledger, a part at a time: how far it is each time. Raises DataLoss
        LEDGER_CHAIN_BROKEN.
        """
        at, more = audit.START, True
        while more:
            request = manager_pb2.VerifyLedgerRequest(
                after_sequence=at.sequence, after_hash=at.hash if at.sequence else b""
            )
            if noted is not None:
                request.noted_sequence, request.noted_hash = noted.sequence, noted.hash
            found = self._patient.read(self._stub.VerifyLedger, request)
            at, more = Head(found.sequence, found.hash), found.more
            yield at

    def balances(self, prefix: str = "") -> list[manager_pb2.Balance]:
        """What accounts hold."""
        return pages(
            lambda token: self._peer.read(
                self._stub.ListBalances,
                manager_pb2.ListBalancesRequest(
                    page_size=PAGE_SIZE, page_token=token, prefix=prefix
                ),
            ),
            lambda page: page.balances,
        )

    def issue(self, period: str) -> manager_pb2.IssueInvoicesResponse:
        """Issues a month's invoices; repeating it is safe."""
        request = manager_pb2.IssueInvoicesRequest(period=period)
        return self._patient.change(self._stub.IssueInvoices, request)

    def correct(self, period: str, reason: str) -> manager_pb2.CorrectMonthResponse:
        """Books what is missing in a month."""
        request = manager_pb2.CorrectMonthRequest(
            correction_id=str(uuid.uuid4()), period=period, reason=reason
        )
        return self._patient.change(self._stub.CorrectMonth, request)

    def invoices(self, payer: str = "", period: str = "") -> list[manager_pb2.Invoice]:
        """Invoices without lines, newest first."""
        return pages(
            lambda token: self._peer.read(
                self._stub.ListInvoices,
                manager_pb2.ListInvoicesRequest(
                    page_size=PAGE_SIZE, page_token=token, payer=payer, period=period
                ),
            ),
            lambda page: page.invoices,
        )

    def invoice(self, key: str) -> manager_pb2.Invoice:
        """An invoice with all of its lines. Raises NotFound RECORD_NOT_FOUND."""
        heads: list[manager_pb2.Invoice] = []

        def fetch(token: str) -> manager_pb2.GetInvoiceResponse:
            page = self._peer.read(
                self._stub.GetInvoice,
                manager_pb2.GetInvoiceRequest(
                    invoice_id=key, page_size=PAGE_SIZE, page_token=token
                ),
            )
            heads.append(page.invoice)
            return page

        lines = pages(fetch, lambda page: page.invoice.lines)
        found = heads[0]
        del found.lines[:]
        found.lines.extend(lines)
        return found

    def export(self, key: str, how: "manager_pb2.InvoiceFormat.ValueType") -> bytes:
        """An invoice as a document. Raises NotFound RECORD_NOT_FOUND."""
        request = manager_pb2.ExportInvoiceRequest(invoice_id=key, format=how)
        content = bytearray()
        try:
            with rpc.stream(
                self._stub.ExportInvoice, request, timeout_seconds=WORK_SECONDS_MAX
            ) as parts:
                for part in parts:
                    content += part.content
                    if len(content) > EXPORT_BYTES_MAX:
                        raise errors.Exhausted(
                            "MESSAGE_TOO_LARGE", f"the document is over {EXPORT_BYTES_MAX} bytes"
                        )
        except errors.WatariError as error:
            raise self._peer.named(error) from error
        return bytes(content)

    def open_dispute(self, request: manager_pb2.OpenDisputeRequest) -> manager_pb2.Dispute:
        """Disputes a part of a charge; repeating it with the same id is safe."""
        return self._peer.change(self._stub.OpenDispute, request).dispute

    def disputes(self, *, open_only: bool) -> list[manager_pb2.Dispute]:
        """Disputes, newest first."""
        return pages(
            lambda token: self._peer.read(
                self._stub.ListDisputes,
                manager_pb2.ListDisputesRequest(
                    page_size=PAGE_SIZE, page_token=token, open_only=open_only
                ),
            ),
            lambda page: page.disputes,
        )

    def decide(
        self, dispute_id: str, credited: common_pb2.Money | None, reason: str
    ) -> manager_pb2.Dispute:
        """Decides a dispute; the same decision again is safe."""
        request = manager_pb2.DecideDisputeRequest(
            dispute_id=dispute_id, credited=credited, reason=reason
        )
        return self._peer.change(self._stub.DecideDispute, request).dispute

    def pay(self, request: manager_pb2.RecordPaymentRequest) -> manager_pb2.RecordPaymentResponse:
        """Records a payment; repeating it with the same id is safe."""
        return self._peer.change(self._stub.RecordPayment, request)

    def dispute_billed(
        self, request: manager_pb2.DisputeBilledChargeRequest
    ) -> manager_pb2.Dispute:
        """Disputes a charge of another provider's; repeating it with the same id is safe."""
        return self._patient.change(self._stub.DisputeBilledCharge, request).dispute

    def settlement(self, cloud_id: str, period: str) -> manager_pb2.GetSettlementResponse:
        """The statement with another cloud."""
        request = manager_pb2.GetSettlementRequest(cloud_id=cloud_id, period=period)
        return self._patient.read(self._stub.GetSettlement, request)

    def net(self, cloud_id: str, period: str) -> manager_pb2.Settlement:
        """Books it; repeating it is safe."""
        request = manager_pb2.NetSettlementRequest(cloud_id=cloud_id, period=period)
        return self._patient.change(self._stub.NetSettlement, request).settlement
