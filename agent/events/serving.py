"""The log as the manager reads it."""

from agent.events.log import EventLog
from agent.events.recorder import Recorder
from watari import errors, paging, validate
from watari.identity import SpiffeId
from watari.v1 import agent_pb2

WAIT_SECONDS_MAX = 20
"""How long a reader may wait for an entry: each one that does takes a thread."""

ANSWER_SECONDS = 1.0
"""Left of a caller's deadline to answer in."""


class Events:
    """What the agent's service calls."""

    def __init__(self, log: EventLog, recorder: Recorder, manager: SpiffeId) -> None:
        """`manager` is the one that the host obeys."""
        self._log = log
        self._manager = manager
        self.noticed = recorder.noticed
        """To be called when a call has made a machine come, go or change hands."""

        self.discarded = recorder.discarded
        """The same where only the migration is known that had brought it."""

    def list(
        self, request: agent_pb2.ListEventsRequest, peer: SpiffeId, left_seconds: float | None
    ) -> agent_pb2.ListEventsResponse:
        """A page. Raises Denied NOT_ALLOWED, InvalidArgument, Exhausted, DataLoss."""
        if peer != self._manager:
            raise errors.Denied(
                "NOT_ALLOWED",
                f"{peer} is not the manager that this host obeys",
                hint=f"it is {self._manager}: setting agent.manager",
            )
        size = paging.page_size(request.page_size)
        if request.log_id:
            validate.require_uuid(request.log_id, "log_id")
        for field in ("after_sequence", "acknowledged_sequence"):
            validate.require_range(getattr(request, field), field, 0, paging.INTEGER_MAX)
        wait: float = validate.require_range(
            request.wait_seconds, "wait_seconds", 0, WAIT_SECONDS_MAX
        )
        if left_seconds is not None:
            wait = max(0.0, min(wait, left_seconds - ANSWER_SECONDS))
        page = self._log.read(
            request.log_id, request.after_sequence, request.acknowledged_sequence, size, wait
        )
        return agent_pb2.ListEventsResponse(
            events=page.events,
            log_id=page.log_id,
            first_sequence=page.first,
            last_sequence=page.last,
        )
