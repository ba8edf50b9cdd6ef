"""The broker as the commands see it; `watari.cli.clients` has the other servers."""

from collections.abc import Iterator

from watari import errors, rpc
from watari.cli.calls import PAGE_SIZE, Peer, pages
from watari.v1 import broker_pb2, broker_pb2_grpc


class Broker:
    """The broker."""

    def __init__(self, peer: Peer, watch_seconds_max: float) -> None:
        self.peer = peer
        self.spiffe_id = peer.endpoint.spiffe_id
        self._watch_seconds_max = watch_seconds_max
        self._stub = broker_pb2_grpc.BrokerServiceStub(peer.channel)

    def place(self, request: broker_pb2.PlaceRequest) -> broker_pb2.PlaceResponse:
        """Where a machine fits."""
        return self.peer.read(self._stub.Place, request)

    def place_batch(
        self, request: broker_pb2.PlaceBatchRequest, seconds_max: float
    ) -> broker_pb2.PlaceBatchResponse:
        """Where many machines go. Not repeated: a broker solves few at a time."""
        return self.peer.patient(seconds_max).change(self._stub.PlaceBatch, request)

    def migrate(self, request: broker_pb2.MigrateRequest) -> broker_pb2.MigrateResponse:
        """Places a machine and has it migrated there; repeating it with the same id is safe."""
        return self.peer.change(self._stub.Migrate, request)

    def policies(self) -> list[broker_pb2.Policy]:
        """Every policy that the user may see."""
        return pages(
            lambda token: self.peer.read(
                self._stub.ListPolicies,
                broker_pb2.ListPoliciesRequest(page_size=PAGE_SIZE, page_token=token),
            ),
            lambda page: page.policies,
        )

    def put_policy(self, request: broker_pb2.PutPolicyRequest) -> broker_pb2.Policy:
        """Sets a policy; repeating it is safe."""
        return self.peer.change(self._stub.PutPolicy, request).policy

    def delete_policy(self, request: broker_pb2.DeletePolicyRequest) -> None:
        """Deletes a policy, if there is one."""
        self.peer.change(self._stub.DeletePolicy, request)

    def plans(self, *, policy_id: str, live_only: bool) -> list[broker_pb2.Plan]:
        """Plans that the user may see, newest first."""
        return pages(
            lambda token: self.peer.read(
                self._stub.ListPlans,
                broker_pb2.ListPlansRequest(
                    page_size=PAGE_SIZE,
                    page_token=token,
                    policy_id=policy_id,
                    live_only=live_only,
                ),
            ),
            lambda page: page.plans,
        )

    def plan(self, plan_id: str) -> broker_pb2.Plan:
        """A plan. Raises NotFound RECORD_NOT_FOUND."""
        request = broker_pb2.GetPlanRequest(plan_id=plan_id)
        return self.peer.read(self._stub.GetPlan, request).plan

    def approve_plan(self, plan_id: str, generation: int) -> broker_pb2.Plan:
        """Lets a plan of that generation go ahead."""
        request = broker_pb2.ApprovePlanRequest(plan_id=plan_id, expected_generation=generation)
        return self.peer.change(self._stub.ApprovePlan, request).plan

    def cancel_plan(self, plan_id: str) -> broker_pb2.Plan:
        """Ends what has not begun of a plan."""
        request = broker_pb2.CancelPlanRequest(plan_id=plan_id)
        return self.peer.change(self._stub.CancelPlan, request).plan

    def watch_plan(self, plan_id: str) -> Iterator[broker_pb2.Plan]:
        """A plan at every change until it ends or the stream does. Raises WatariError."""
        request = broker_pb2.WatchPlanRequest(plan_id=plan_id)
        try:
            with rpc.stream(
                self._stub.WatchPlan, request, timeout_seconds=self._watch_seconds_max
            ) as responses:
                for response in responses:
                    yield response.plan
        except errors.WatariError as error:
            raise self.peer.named(error) from error
