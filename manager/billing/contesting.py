"""Disputes of another provider's charges on this one.

The dispute is the creditor's: it holds the amount in its ledger and decides. Nothing of it is kept
here but the audit log's entry; statements ask the creditor how it stands.
"""

from manager import audit
from manager.billing.partners import Partners
from manager.store import Store, micros
from watari import errors, money
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

ACTION = "settlement.disputed"

_LISTED = "`watari settlement show {cloud} --month YYYY-MM --charges` lists what it charges us"

_HINTS = {
    "RECORD_NOT_FOUND": _LISTED,
    "DISPUTE_EXCEEDS_CHARGE": "dispute what is left of it at most: `watari settlement show {cloud} "
    "--month YYYY-MM` shows what is disputed already",
    "ID_REUSED": "leave --id out: a dispute of something else has an id of its own",
}
"""By reason: what to do next at this side."""


class Contesting:
    """Opens disputes at other clouds' managers. From any thread."""

    def __init__(self, store: Store, clock: Clock, partners: Partners) -> None:
        self._store = store
        self._clock = clock
        self._partners = partners

    def dispute(
        self, request: manager_pb2.DisputeBilledChargeRequest, caller: SpiffeId
    ) -> manager_pb2.Dispute:
        """Dispute a part of what a cloud charges us, all that is left unless an amount is said.
        Repeating it with the same id changes nothing.

        Raises Unavailable, NotFound CLOUD_NOT_FOUND and RECORD_NOT_FOUND, AlreadyExists ID_REUSED,
        FailedPrecondition DISPUTE_EXCEEDS_CHARGE, Denied NOT_ALLOWED.
        """
        other = self._partners.find(request.cloud_id)
        asked = manager_pb2.OpenDisputeRequest(
            dispute_id=request.dispute_id,
            charge_id=request.charge_id,
            amount=request.amount if request.HasField("amount") else None,
            reason=request.reason,
        )
        try:
            dispute = other.dispute(asked)
        except errors.WatariError as error:
            hint = _HINTS.get(error.reason)
            if hint is not None:
                error.hint = hint.format(cloud=request.cloud_id)
            raise
        self._note(dispute, request.cloud_id, caller)
        return dispute

    def _note(self, dispute: manager_pb2.Dispute, cloud_id: str, caller: SpiffeId) -> None:
        """Audit it once: who calls again to be sure has changed nothing."""
        with self._store.read() as connection:
            if audit.tells(connection, ACTION, dispute.dispute_id):
                return
        amount = f"{money.to_decimal(dispute.amount):f} {dispute.amount.currency_code}"
        now = micros(self._clock.now())
        with self._store.write() as connection:
            audit.append(
                connection,
                now,
                actor=caller,
                action=ACTION,
                subject=dispute.dispute_id,
                details={
                    "peer": cloud_id,
                    "charge": dispute.charge_id,
                    "period": dispute.period,
                    "amount": amount,
                    "reason": dispute.reason,
                },
            )
