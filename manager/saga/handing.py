"""From the commit point on: the machine is handed over and retired here, or it comes back.

There are two commit points, each one transaction. The first gives the machine to the destination.
The second takes it back, and only on the destination's signed word that it never ran there, or on
an operator's (`manager.saga.resolving`). Between them nothing lets it run here.
"""

from sqlalchemy.engine import Connection

from manager import usage, vms
from manager.agents import Agents
from manager.handover import PURPOSE as HAND_OVER
from manager.peers import Peers
from manager.saga import documents, records, returning, steps
from manager.saga.asking import asking, asking_peer
from manager.saga.copying import StepFailed
from manager.saga.record import Record
from manager.saga.recording import Recorder
from manager.saga.states import State
from manager.saga.steps import Party
from watari import failpoint, identity
from watari.v1 import common_pb2

AFTER_CONFIRM = failpoint.declare("manager.saga.after_confirm")
BEFORE_COMMIT = failpoint.declare("manager.saga.before_commit")
IN_COMMIT = failpoint.declare("manager.saga.in_commit")
AFTER_COMMIT = failpoint.declare("manager.saga.after_commit")
AFTER_HAND_OVER = failpoint.declare("manager.saga.after_hand_over")
AFTER_RETIRE = failpoint.declare("manager.saga.after_retire")
AFTER_RELINQUISHED = failpoint.declare("manager.saga.after_relinquished")
IN_TAKING_BACK = failpoint.declare("manager.saga.in_taking_back")
AFTER_TAKING_BACK = failpoint.declare("manager.saga.after_taking_back")
AFTER_UNHOLD = failpoint.declare("manager.saga.after_unhold")


class HandingOver:
    """The steps from CONFIRMING on. Each raises StepFailed for others' failures."""

    def __init__(self, recorder: Recorder, agents: Agents, peers: Peers) -> None:
        self._recorder = recorder
        self._agents = agents
        self._peers = peers

    def commit(self, record: Record) -> None:
        """Have the reservation confirmed, then commit: CONFIRMING becomes HANDED_OVER."""
        recorder = self._recorder
        with asking_peer(self._peers, record):
            self._peers.confirm(documents.peer(record), steps.reservation_id(record))
        failpoint.hit(AFTER_CONFIRM)
        failpoint.hit(BEFORE_COMMIT)
        handed = documents.hand_over(record, recorder.clock.now())
        payload = handed.SerializeToString(deterministic=True)
        document = identity.sign(recorder.own, payload, HAND_OVER)
        with recorder.store.write() as connection:
            # The commit point: owner and state change together, and a cancellation that came first
            # makes the compare-and-swap of `advance` fail.
            committed = records.advance(
                connection,
                record,
                State.HANDED_OVER,
                recorder.now(),
                actor=recorder.actor,
                hand_over=document,
            )
            given = vms.give_away(
                connection,
                record.vm_id,
                from_cloud=recorder.cloud_id,
                to_cloud=record.to_cloud,
                epoch=handed.ownership.epoch,
            )
            if not given:
                raise StepFailed(Party.TRANSFER, documents.not_owned(record))
            failpoint.hit(IN_COMMIT)
        failpoint.hit(AFTER_COMMIT)
        recorder.announce(committed)

    def hand_over(self, record: Record) -> None:
        """Tell the destination that it owns the machine. What it answers decides: RETIRING, or
        TAKING_BACK when it gives the machine back.
        """
        assert record.hand_over is not None  # noqa: S101 - written with the state
        handed = common_pb2.HandOver.FromString(record.hand_over.payload)
        with asking_peer(self._peers, record):
            answer = self._peers.hand_over(documents.peer(record), record.hand_over)
            if answer.HasField("relinquished"):
                given_back = returning.check(
                    self._recorder.own,
                    self._recorder.clock.now(),
                    self._recorder.cloud_id,
                    record,
                    answer.relinquished,
                )
            else:
                documents.require_accepted(record, answer, handed.ownership)
        if answer.HasField("relinquished"):
            self._come_back(record, answer.relinquished, given_back)
            return
        failpoint.hit(AFTER_HAND_OVER)
        with self._recorder.store.write() as connection:
            now = self._recorder.now()
            retiring = leave(
                connection, record, self._recorder, downtime=steps.downtime(record, now)
            )
        self._recorder.announce(retiring)

    def retire(self, record: Record) -> None:
        """Put the copy here out of use."""
        with asking(Party.OWN_AGENT):
            self._agents.retire(record.host_id, record.vm_id, record.migration_id)
        failpoint.hit(AFTER_RETIRE)
        self._recorder.end(record)

    def take_back(self, record: Record) -> None:
        """Let the machine, which is ours again, be as it was before the migration."""
        epoch = record.taken_back_epoch
        assert epoch is not None  # noqa: S101 - written with TAKING_BACK
        with asking(Party.OWN_AGENT):
            self._agents.unhold(record.host_id, record.vm_id, record.migration_id, epoch)
        failpoint.hit(AFTER_UNHOLD)
        self._recorder.end(record)

    def _come_back(
        self,
        record: Record,
        document: common_pb2.SignedDocument,
        given_back: common_pb2.Relinquishment,
    ) -> None:
        failpoint.hit(AFTER_RELINQUISHED)
        with self._recorder.store.write() as connection:
            returned = returning.take_back(
                connection,
                record,
                self._recorder,
                problem=returning.problem(record, given_back),
                relinquishment=document,
            )
            failpoint.hit(IN_TAKING_BACK)
        failpoint.hit(AFTER_TAKING_BACK)
        self._recorder.announce(returned)


def leave(connection: Connection, record: Record, recorder: Recorder, **values: object) -> Record:
    """HANDED_OVER becomes RETIRING: the machine lives at the destination for good. Its room here is
    free from now on, and that it left is metered.
    """
    assert record.hand_over is not None  # noqa: S101 - written with HANDED_OVER
    handed = common_pb2.HandOver.FromString(record.hand_over.payload)
    retiring = records.advance(
        connection, record, State.RETIRING, recorder.now(), actor=recorder.actor, **values
    )
    vms.vacate(connection, record.vm_id, recorder.cloud_id)
    left = documents.usage_left(record, handed, recorder.cloud_id)
    usage.write(connection, left, record.tenant_domain)
    return retiring
