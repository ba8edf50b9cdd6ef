"""Begins the moves of plans, and sees them through.

A move is recorded with its migration's id before anybody is asked for it. Whoever finds it recorded
asks the source's manager what became of that id: there it is, or it is asked for again, with the
same id. So a broker may end at any moment.
"""

import uuid
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from broker import mandates, metrics
from broker.automation import costs, memory, plan_rows, policy_rows, situating
from broker.automation.bell import Bell
from broker.automation.fleet import Fleet
from broker.automation.plan_rows import Kept
from broker.automation.policy_rows import Held
from broker.automation.store import Store
from broker.migrate import Migrator
from broker.policies import ledger, plans
from broker.policies.model import Move
from broker.policies.plans import Action, Outcome, State
from broker.submitting import UNDECIDED
from watari import errors, failpoint, logs
from watari.v1 import manager_pb2

AFTER_RECORD = failpoint.declare("broker.automation.after_record")
AFTER_ASK = failpoint.declare("broker.automation.after_ask")
BEFORE_FINISH = failpoint.declare("broker.automation.before_finish")

PROBLEM_CHARS_MAX = 500
"""Of what is told of a move that failed: peers choose these words too."""

_ENDED = {
    manager_pb2.MIGRATION_STATE_SUCCEEDED: "",
    manager_pb2.MIGRATION_STATE_FAILED: "the migration failed",
    manager_pb2.MIGRATION_STATE_CANCELLED: "the migration was cancelled",
}

_log = logs.get(__name__)


@dataclass(frozen=True)
class Carrier:
    """Moves machines for policies. For one thread."""

    store: Store
    migrator: Migrator
    bell: Bell
    start_seconds_max: float

    def begin(self, held: Held, unseen: Container[str], now: datetime) -> None:
        """Begins every move of the policy's plans that may go ahead and that was decided just now:
        none out of a cloud that is `unseen`.
        """
        with self.store.read() as connection:
            due = [
                (kept.plan.plan_id, action)
                for kept in _of(plan_rows.live(connection, held.tenant), held)
                for action in kept.plan.actions
                if action.state is State.APPROVED and action.proposal.from_cloud not in unseen
            ]
        for plan_id, action in due:
            begun = self._record(held, plan_id, action, now)
            if begun is not None:
                failpoint.hit(AFTER_RECORD)
                self._ask(held, plan_id, begun, now)

    def follow(self, held: Held, fleet: Fleet, now: datetime) -> bool:
        """Looks how the moves that run stand. Tells whether any of the policy's goes on."""
        with self.store.read() as connection:
            running = [
                (kept.plan.plan_id, action)
                for kept in _of(plan_rows.live(connection, held.tenant), held)
                for action in kept.plan.actions
                if action.state is State.RUNNING
            ]
        over = [self._over(held, fleet, *one, now) for one in running]
        return not all(over)

    def _over(self, held: Held, fleet: Fleet, plan_id: str, action: Action, now: datetime) -> bool:
        """Whether the move has come to its end, which is recorded then."""
        source = action.proposal.from_cloud
        try:
            manager = fleet.ask(source)
            migration = manager.get_migration(action.migration_id, held.document)
        except errors.NotFound as error:
            if error.reason == "MIGRATION_NOT_FOUND":
                return self._lost(held, plan_id, action, now)
            return False
        except errors.WatariError as error:
            fleet.heard(source, error)
            _log.info("move not looked at", migration_id=action.migration_id, reason=error.reason)
            return isinstance(error, errors.Denied) and self._give_up(
                held, plan_id, action, f"its manager shows it no more: {error.message}", now
            )
        if migration.state not in _ENDED:
            return False
        problem = _ENDED[migration.state]
        if problem and migration.problem.message:
            problem = f"{problem}: {migration.problem.reason}: {migration.problem.message}"
        failpoint.hit(BEFORE_FINISH)
        outcome = None if problem else costs.outcome_of(migration)
        self._finish(held, plan_id, action, problem, now, outcome)
        return True

    def _lost(self, held: Held, plan_id: str, action: Action, now: datetime) -> bool:
        """No manager knows the migration: the broker ended before it asked, or nobody answered."""
        with self.store.read() as connection:
            move = memory.move_of(connection, action.migration_id)
        if held.deleted:
            return self._give_up(held, plan_id, action, "the policy was deleted first", now)
        if move is None or now.timestamp() - move.began_at > self.start_seconds_max:
            why = f"its manager did not take it within {self.start_seconds_max:.0f} s"
            return self._give_up(held, plan_id, action, why, now)
        self._ask(held, plan_id, action, now)
        return False

    def _record(self, held: Held, plan_id: str, action: Action, now: datetime) -> Action | None:
        """The move as it runs from now on; None when the plan or the policy changed meanwhile."""
        vm_id, moment = action.proposal.vm_id, now.timestamp()
        migration_id = str(uuid.uuid4())
        move = Move(vm_id, action.proposal.from_cloud, action.proposal.to_cloud, moment)
        with self.store.write() as connection:
            kept = plan_rows.get(connection, plan_id)
            present = policy_rows.get(connection, held.tenant, held.policy_id)
            if kept is None or present is None or present.generation != held.generation:
                return None
            if action not in kept.plan.actions:
                return None
            begun = plans.begin(kept.plan, vm_id, migration_id, moment)
            plan_rows.put(connection, kept.with_plan(begun))
            memory.put_move(connection, held.tenant, migration_id, move)
        metrics.MOVES.labels("begun").inc()
        self.bell.ring()
        return replace(action, state=State.RUNNING, migration_id=migration_id)

    def _ask(self, held: Held, plan_id: str, action: Action, now: datetime) -> None:
        """Asks for the migration; a refusal ends the move."""
        proposal = action.proposal
        request = situating.request_of(held, proposal.vm_id, proposal.from_cloud)
        request.migration_id = action.migration_id
        with logs.context(migration_id=action.migration_id):
            try:
                self.migrator.carry_out(
                    request,
                    proposal.vm_id,
                    (proposal.to_cloud,),
                    mandates.by_standing(held.delegation, request),
                )
            except UNDECIDED as error:
                _log.info("move not begun yet", reason=error.reason, problem=error.message)
            except errors.WatariError as error:
                problem = f"{error.reason}: {error.message}"
                self._give_up(held, plan_id, action, problem, now)
            else:
                _log.info("move begun", plan=plan_id, to_cloud=proposal.to_cloud)
                failpoint.hit(AFTER_ASK)

    def _give_up(
        self, held: Held, plan_id: str, action: Action, problem: str, now: datetime
    ) -> bool:
        self._finish(held, plan_id, action, problem, now)
        return True

    def _finish(
        self,
        held: Held,
        plan_id: str,
        action: Action,
        problem: str,
        now: datetime,
        outcome: Outcome | None = None,
    ) -> None:
        """Records the end of a move, what it took, and what it means for the machine's ledger."""
        proposal, moment = action.proposal, now.timestamp()
        with self.store.write() as connection:
            kept = plan_rows.get(connection, plan_id)
            if kept is None:
                return
            told = problem[:PROBLEM_CHARS_MAX]
            ended = plans.finish(kept.plan, proposal.vm_id, told, moment, outcome)
            plan_rows.put(connection, kept.with_plan(ended))
            known = memory.machines(connection, held).get(proposal.vm_id)
            if known is not None and problem:
                memory.put_machine(connection, held, replace(known, failed_at=moment))
            elif known is not None:
                cost = proposal.reckoning.move_cost.total
                standing = ledger.arrived(
                    known.standing, proposal.cause, proposal.to_cloud, cost, None
                )
                there = replace(
                    known,
                    cloud_id=proposal.to_cloud,
                    since=moment,
                    looked_at=moment,
                    standing=standing,
                    burdens={},
                )
                memory.put_machine(connection, held, there)
        metrics.MOVES.labels("failed" if problem else "done").inc()
        if outcome is not None:
            for what, ratio in costs.ratios(proposal.reckoning.move_cost, outcome).items():
                metrics.CALIBRATION.labels(what).observe(ratio)
        _log.info(
            "move ended",
            plan=plan_id,
            migration_id=action.migration_id,
            problem=problem or None,
        )
        self.bell.ring()


def _of(kept: list[Kept], held: Held) -> Iterator[Kept]:
    return (each for each in kept if each.plan.policy_id == held.policy_id)
