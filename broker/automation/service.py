"""The part of BrokerService about policies and plans: check a request, call the desk, return."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from broker import metrics
from broker.automation.desk import TENANT_BYTES_MAX, Desk
from watari import errors, paging, rpc, validate
from watari.v1 import broker_pb2

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""Of one page, half of what a message may have: a plan of a thousand moves has a megabyte."""

_Entry = TypeVar("_Entry", bound=Message)


class AutomationCalls:
    """Served when there is a desk; AUTOMATION_OFF otherwise."""

    def __init__(self, desk: Desk | None) -> None:
        self._kept_desk = desk

    def PutPolicy(
        self, request: broker_pb2.PutPolicyRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.PutPolicyResponse:
        with metrics.asked("PutPolicy"):
            validate.require_uuid(request.request_id, "request_id")
            policy = self._desk.put(request, rpc.current_peer())
            return broker_pb2.PutPolicyResponse(policy=policy)

    def ListPolicies(
        self, request: broker_pb2.ListPoliciesRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.ListPoliciesResponse:
        with metrics.asked("ListPolicies"):
            size, query = paging.page_size(request.page_size), paging.fingerprint(request)
            after = paging.decode(query, request.page_token, (str, str, str))
            found = self._desk.policies(rpc.current_peer(), after, size + 1)
            policies, token = _page(query, found, size)
            return broker_pb2.ListPoliciesResponse(policies=policies, next_page_token=token)

    def DeletePolicy(
        self, request: broker_pb2.DeletePolicyRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.DeletePolicyResponse:
        with metrics.asked("DeletePolicy"):
            validate.require_name(request.policy_id, "policy_id")
            validate.require_text(request.tenant, "tenant", bytes_max=TENANT_BYTES_MAX)
            self._desk.delete(request, rpc.current_peer())
            return broker_pb2.DeletePolicyResponse()

    def ListPlans(
        self, request: broker_pb2.ListPlansRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.ListPlansResponse:
        with metrics.asked("ListPlans"):
            size, query = paging.page_size(request.page_size), paging.fingerprint(request)
            if request.policy_id:
                validate.require_name(request.policy_id, "policy_id")
            found = self._desk.plans(
                rpc.current_peer(),
                policy_id=request.policy_id,
                live_only=request.live_only,
                after=paging.decode(query, request.page_token, (int, str)),
                limit=size + 1,
            )
            plans, token = _page(query, found, size)
            return broker_pb2.ListPlansResponse(plans=plans, next_page_token=token)

    def GetPlan(
        self, request: broker_pb2.GetPlanRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.GetPlanResponse:
        with metrics.asked("GetPlan"):
            plan_id = validate.require_uuid(request.plan_id, "plan_id")
            return broker_pb2.GetPlanResponse(plan=self._desk.plan(plan_id, rpc.current_peer()))

    def WatchPlan(
        self, request: broker_pb2.WatchPlanRequest, context: grpc.ServicerContext
    ) -> Iterator[broker_pb2.WatchPlanResponse]:
        with metrics.asked("WatchPlan"):
            plan_id, caller = validate.require_uuid(request.plan_id, "plan_id"), rpc.current_peer()
            for plan in self._desk.watch(plan_id, caller, lambda: not context.is_active()):
                yield broker_pb2.WatchPlanResponse(plan=plan)

    def ApprovePlan(
        self, request: broker_pb2.ApprovePlanRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.ApprovePlanResponse:
        with metrics.asked("ApprovePlan"):
            plan_id = validate.require_uuid(request.plan_id, "plan_id")
            plan = self._desk.approve(plan_id, request.expected_generation, rpc.current_peer())
            return broker_pb2.ApprovePlanResponse(plan=plan)

    def CancelPlan(
        self, request: broker_pb2.CancelPlanRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.CancelPlanResponse:
        with metrics.asked("CancelPlan"):
            plan_id = validate.require_uuid(request.plan_id, "plan_id")
            plan = self._desk.cancel(plan_id, rpc.current_peer())
            return broker_pb2.CancelPlanResponse(plan=plan)

    @property
    def _desk(self) -> Desk:
        if self._kept_desk is None:
            raise errors.FailedPrecondition(
                "AUTOMATION_OFF",
                "this broker keeps no policies",
                hint="its operator sets broker.automation.path",
            )
        return self._kept_desk


def _page(
    query: bytes, found: Sequence[tuple[tuple[str | int, ...], _Entry]], size: int
) -> tuple[list[_Entry], str]:
    """As many entries as fit, one at least, and the token of the next page if there are more."""
    kept: list[_Entry] = []
    bytes_taken = 0
    for _, entry in found[:size]:
        bytes_taken += entry.ByteSize()
        if kept and bytes_taken > PAGE_BYTES_MAX:
            break
        kept.append(entry)
    more = len(kept) < len(found)
    return kept, paging.encode(query, found[len(kept) - 1][0]) if more else ""
