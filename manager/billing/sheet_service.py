"""AccountingService's calls about price sheets."""

import grpc

from manager import audit
from manager.accounting import rows, sheet_documents
from manager.billing import messages
from manager.billing.parts import Billing
from manager.domain import next_page
from manager.store import micros
from watari import errors, paging, rpc, validate
from watari.v1 import manager_pb2

DOCUMENT_BYTES_MAX = 1024 * 1024
"""Longest document of a sheet that is taken: some 8,000 discounts."""


class SheetCalls:
    """The part of AccountingService that is about price sheets."""

    _billing: Billing

    def PutPriceSheet(
        self, request: manager_pb2.PutPriceSheetRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.PutPriceSheetResponse:
        size = len(request.document.encode())
        if size > DOCUMENT_BYTES_MAX:
            raise validate.invalid_field(
                "document", f"{size} bytes are too long", f"at most {DOCUMENT_BYTES_MAX} bytes"
            )
        sheet = sheet_documents.from_json(request.document)
        validate.require_range(sheet.version, "version", 1, paging.INTEGER_MAX - 1)
        caller, now = rpc.current_peer(), micros(self._billing.clock.now())
        self._billing.sheets.record(
            sheet,
            lambda connection: audit.append(
                connection,
                now,
                actor=caller,
                action="price_sheet.recorded",
                subject=str(sheet.version),
                details={
                    "currency": sheet.currency,
                    "effective_from": sheet.effective_from,
                    "components": len(sheet.components),
                },
            ),
        )
        return manager_pb2.PutPriceSheetResponse(sheet=self._sheet(sheet.version))

    def ListPriceSheets(
        self, request: manager_pb2.ListPriceSheetsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListPriceSheetsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (before,) = paging.decode(query, request.page_token, (int,)) or (paging.INTEGER_MAX,)
        current = self._billing.sheets.current().version
        with self._billing.store.read() as connection:
            found = rows.sheet_page(connection, before=before, limit=size + 1)
        return manager_pb2.ListPriceSheetsResponse(
            sheets=[
                messages.sheet(sheet, at, None, in_effect=sheet.version == current)
                for sheet, at in found[:size]
            ],
            next_page_token=next_page(query, [(sheet.version,) for sheet, _ in found], size),
        )

    def GetPriceSheet(
        self, request: manager_pb2.GetPriceSheetRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetPriceSheetResponse:
        validate.require_range(request.version, "version", 0, paging.INTEGER_MAX - 1)
        version = request.version or self._billing.sheets.current().version
        return manager_pb2.GetPriceSheetResponse(sheet=self._sheet(version))

    def _sheet(self, version: int) -> manager_pb2.PriceSheetVersion:
        with self._billing.store.read() as connection:
            found = rows.sheet_page(connection, before=version + 1, limit=1)
        if not found or found[0][0].version != version:
            raise errors.NotFound(
                "RECORD_NOT_FOUND",
                f"there is no price sheet of version {version}",
                hint="`watari price list` shows those that there are",
            )
        sheet, recorded_at = found[0]
        in_effect = version == self._billing.sheets.current().version
        return messages.sheet(sheet, recorded_at, self._billing.viewer(), in_effect=in_effect)
