"""Policies and plans as people see and change them: tenants their own, operators their tenants'."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime

from sqlalchemy.engine import Connection

from broker import demands
from broker.automation import memory, plan_rows, policy_rows
from broker.automation.bell import Bell
from broker.automation.engine import Engine
from broker.automation.plan_rows import Kept
from broker.automation.policy_rows import Held, Tenant, View
from broker.automation.settings import AutomationSettings
from broker.automation.store import Store
from broker.policies import messages, plans
from broker.policies.plans import Plan
from watari import delegation, errors, standing, validate
from watari.clock import Clock
from watari.identity import Identity, Role, SpiffeId
from watari.v1 import broker_pb2, common_pb2

IDLE_SECONDS_MAX = 1.0
"""A watcher looks at least this often whether anybody still listens."""

TENANT_BYTES_MAX = standing.TENANT_BYTES_MAX

_SAID_BY_THE_BROKER = ("generation", "delegation", "delegated_by", "evaluation")

_MODES = frozenset(common_pb2.MigrationMode.values())


class Desk:
    """What people ask of automatic placement. May be used from any thread."""

    def __init__(
        self,
        settings: AutomationSettings,
        store: Store,
        engine: Engine,
        bell: Bell,
        own: Identity,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._bell = bell
        self._own = own
        self._clock = clock
        self._watches = threading.BoundedSemaphore(settings.watches_max)

    def put(self, request: broker_pb2.PutPolicyRequest, caller: SpiffeId) -> broker_pb2.Policy:
        """Sets a policy; repeating the request that made it what it is changes nothing.

        Raises InvalidArgument INVALID_FIELD, Denied NOT_ALLOWED and DELEGATION_INVALID, Conflict
        GENERATION_CONFLICT, Exhausted TOO_MANY_POLICIES.
        """
        tenant = _tenant_of(request.policy.tenant_domain, request.policy.tenant, caller)
        message = _checked(request.policy, tenant)
        document, signer = self._delegated(request, tenant, caller)
        with self._store.write() as connection:
            present = policy_rows.get(connection, tenant, message.policy_id)
            if present is not None and present.deleted:
                present = None
            if document is None and present is not None:
                document, signer = _kept(present, caller)
            if document is None:
                raise delegation.invalid(
                    "there is none", "sign a standing one for this broker: watari policy put"
                )
            generation = present.generation if present is not None else 0
            held = Held(tenant, message.policy_id, generation + 1, message, document, signer)
            if present is not None and _same(present, held):
                return self._shown(present)
            _require_generation(request.policy.generation, generation)
            if present is None:
                self._require_room(policy_rows.count(connection), tenant, connection)
            elif _incomparable(present, held):
                memory.forget_machines(connection, held)
            policy_rows.put(connection, held)
        return self._shown(held)

    def policies(
        self, caller: SpiffeId, after: policy_rows.Position | None, limit: int
    ) -> list[tuple[policy_rows.Position, broker_pb2.Policy]]:
        """Policies of the caller's view with their positions."""
        with self._store.read() as connection:
            found = policy_rows.page(connection, view_of(caller), after, limit)
        return [(held.key, self._shown(held)) for held in found]

    def delete(self, request: broker_pb2.DeletePolicyRequest, caller: SpiffeId) -> None:
        """Deletes a policy, if there is one; what runs of its plans is followed to its end."""
        tenant = _tenant_of(request.tenant_domain, request.tenant, caller)
        with self._store.write() as connection:
            held = policy_rows.get(connection, tenant, request.policy_id)
            if held is None or held.deleted:
                return
            runs = False
            for kept in plan_rows.live(connection, tenant):
                if kept.plan.policy_id != request.policy_id:
                    continue
                ended = plans.cancel(kept.plan, "the policy was deleted", self._seconds())
                plan_rows.put(connection, kept.with_plan(ended))
                runs = runs or bool(ended.live())
            if runs:
                # Its document is only for looking at what it let begin, from now on.
                policy_rows.put(connection, _deleted(held))
            else:
                policy_rows.remove(connection, held)
                memory.forget_machines(connection, held)
        self._bell.ring()

    def plans(
        self,
        caller: SpiffeId,
        *,
        policy_id: str,
        live_only: bool,
        after: plan_rows.Position | None,
        limit: int,
    ) -> list[tuple[plan_rows.Position, broker_pb2.Plan]]:
        """Plans of the caller's view with their positions, newest first."""
        with self._store.read() as connection:
            found = plan_rows.page(
                connection,
                view_of(caller),
                policy_id=policy_id,
                live_only=live_only,
                after=after,
                limit=limit,
            )
            names = {kept.tenant: memory.names(connection, kept.tenant) for kept in found}
        return [(kept.position, _plan(kept, names[kept.tenant])) for kept in found]

    def plan(self, plan_id: str, caller: SpiffeId) -> broker_pb2.Plan:
        """A plan of the caller's view. Raises NotFound RECORD_NOT_FOUND."""
        with self._store.read() as connection:
            kept = _seen(plan_rows.get(connection, plan_id), plan_id, caller)
            return _plan(kept, memory.names(connection, kept.tenant))

    def approve(self, plan_id: str, expected_generation: int, caller: SpiffeId) -> broker_pb2.Plan:
        """Lets a recommended plan go ahead, at the next evaluation that decides it again.

        Raises NotFound RECORD_NOT_FOUND, Conflict GENERATION_CONFLICT, FailedPrecondition
        MIGRATION_STATE.
        """
        now = self._seconds()
        return self._change(
            plan_id,
            caller,
            lambda plan: plans.approve(plan, str(caller), expected_generation, now),
        )

    def cancel(self, plan_id: str, caller: SpiffeId) -> broker_pb2.Plan:
        """Ends what has not begun of a plan. Raises NotFound RECORD_NOT_FOUND."""
        now = self._seconds()
        return self._change(
            plan_id, caller, lambda plan: plans.cancel(plan, f"{caller} cancelled it", now)
        )

    def watch(
        self, plan_id: str, caller: SpiffeId, gone: Callable[[], bool]
    ) -> Iterator[broker_pb2.Plan]:
        """The plan at once and at every change, until it has ended or `gone` says so.

        Raises NotFound RECORD_NOT_FOUND, Exhausted TOO_MANY_WATCHES.
        """
        if not self._watches.acquire(blocking=False):
            raise errors.Exhausted(
                "TOO_MANY_WATCHES",
                f"{self._settings.watches_max} plans are watched already",
                hint="try again in a moment; or look at it now and then",
                retryable=True,
            )
        try:
            rung, generation = self._bell.rung, -1
            while not gone():
                plan = self.plan(plan_id, caller)
                if plan.generation != generation:
                    generation = plan.generation
                    yield plan
                if all(move.state in _FINAL for move in plan.moves):
                    return
                rung = self._bell.wait(rung, IDLE_SECONDS_MAX)
        finally:
            self._watches.release()

    def _change(
        self, plan_id: str, caller: SpiffeId, change: Callable[[Plan], Plan]
    ) -> broker_pb2.Plan:
        with self._store.write() as connection:
            kept = _seen(plan_rows.get(connection, plan_id), plan_id, caller)
            changed = kept.with_plan(change(kept.plan))
            plan_rows.put(connection, changed)
            names = memory.names(connection, kept.tenant)
        self._bell.ring()
        return _plan(changed, names)

    def _delegated(
        self, request: broker_pb2.PutPolicyRequest, tenant: Tenant, caller: SpiffeId
    ) -> tuple[common_pb2.SignedDocument | None, str]:
        """The standing delegation that comes with the request, and who signed it."""
        if not request.HasField("delegation"):
            return None, ""
        now = self._clock.now()
        found = standing.read(
            request.delegation, self._own.trust, now, delegate=self._own.spiffe_id
        )
        if found.signer != caller:
            raise delegation.invalid(f"{found.signer} signed it, not {caller}", "who asks signs it")
        said = found.message
        if Tenant(said.tenant_domain, said.tenant) != tenant:
            raise delegation.invalid(
                f"it is for machines of tenant {said.tenant} of {said.tenant_domain}, "
                f"not of {tenant}",
                "have it signed for the policy's tenant",
            )
        standing.require_alive(said, now)
        return request.delegation, str(found.signer)

    def _require_room(self, count: int, tenant: Tenant, connection: Connection) -> None:
        own = policy_rows.count(connection, View(tenant.domain, tenant.name))
        for held, most, whose in (
            (own, self._settings.policies_per_tenant_max, str(tenant)),
            (count, self._settings.policies_max, "the broker"),
        ):
            if held >= most:
                raise errors.Exhausted(
                    "TOO_MANY_POLICIES",
                    f"{whose} has {held} policies, as many as it may",
                    hint="delete one, or let one cover more machines",
                )

    def _shown(self, held: Held) -> broker_pb2.Policy:
        shown, evaluation = held.shown(), self._engine.evaluation(held)
        if evaluation is not None:
            shown.evaluation.CopyFrom(evaluation)
        return shown

    def _seconds(self) -> float:
        now: datetime = self._clock.now()
        return now.timestamp()


_FINAL = frozenset(broker_pb2.PlanState.Value(f"PLAN_STATE_{state}") for state in plans.FINAL)


def view_of(caller: SpiffeId) -> View:
    """Whose policies and plans somebody sees: its own, or of all tenants of its provider."""
    return View(caller.domain, None if caller.role is Role.OPERATOR else caller.name)


def _tenant_of(domain: str, name: str, caller: SpiffeId) -> Tenant:
    """The tenant that a request is about; what is empty is the caller's own.

    Raises Denied NOT_ALLOWED for another's, InvalidArgument INVALID_FIELD for an operator that
    names none.
    """
    validate.require_text(name, "tenant", bytes_max=TENANT_BYTES_MAX)
    if not name and caller.role is Role.OPERATOR:
        raise validate.invalid_field("tenant", "is empty", "say whose machines it is about")
    tenant = Tenant(domain or caller.domain, name or caller.name)
    if not view_of(caller).sees(tenant):
        raise errors.Denied(
            "NOT_ALLOWED",
            f"{caller} has no policies of {tenant}",
            hint="a tenant has its own, an operator those of its provider's tenants",
        )
    return tenant


def _checked(asked: broker_pb2.Policy, tenant: Tenant) -> broker_pb2.Policy:
    """The policy as it is kept. Raises InvalidArgument INVALID_FIELD."""
    message = broker_pb2.Policy()
    message.CopyFrom(asked)
    for field in _SAID_BY_THE_BROKER:
        message.ClearField(field)  # type: ignore[arg-type]
    message.tenant_domain, message.tenant = tenant.domain, tenant.name
    messages.policy_of(message)
    if message.requirements.HasField("resources"):
        raise validate.invalid_field(
            "policy.requirements.resources", "is set", "each machine needs what it has"
        )
    if message.mode not in _MODES:
        raise validate.invalid_field("policy.mode", f"{message.mode} is no mode", "cold or warm")
    request = broker_pb2.MigrateRequest(
        from_cloud="any", requirements=message.requirements, weights=message.weights
    )
    demands.of_migrate(request)
    return message


def _kept(present: Held, caller: SpiffeId) -> tuple[common_pb2.SignedDocument, str]:
    """What the policy acts under already: good for changes by who signed it, for nobody else's."""
    if present.delegated_by != str(caller):
        raise delegation.invalid(
            f"{present.delegated_by} signed the one that the policy has, not {caller}",
            "sign one of your own with the change",
        )
    return present.document, present.delegated_by


def _require_generation(expected: int, present: int) -> None:
    if expected != present:
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            f"the policy is at generation {present}, not {expected}",
            hint="look at it again; 0 makes a new one",
        )


def _same(present: Held, asked: Held) -> bool:
    return present.message == asked.message and present.document == asked.document


def _incomparable(present: Held, asked: Held) -> bool:
    """Whether what was added up is in other terms than what will be."""
    before, after = present.policy, asked.policy
    return (before.currency, before.objective) != (after.currency, after.objective)


def _deleted(held: Held) -> Held:
    return Held(
        held.tenant,
        held.policy_id,
        held.generation + 1,
        held.message,
        held.document,
        held.delegated_by,
        deleted=True,
    )


def _seen(kept: Kept | None, plan_id: str, caller: SpiffeId) -> Kept:
    if kept is None or not view_of(caller).sees(kept.tenant):
        raise errors.NotFound(
            "RECORD_NOT_FOUND", f"there is no plan {plan_id}", hint="list the plans"
        )
    return kept


def _plan(kept: Kept, names: dict[str, str]) -> broker_pb2.Plan:
    message = kept.message()
    for move in message.moves:
        move.vm_name = names.get(move.vm_id, "")
    return message
