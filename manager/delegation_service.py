"""ManagerService's calls about standing delegations: check a request, call the domain, return."""

import grpc

from manager import requests
from manager.callers import Callers
from manager.domain import next_page
from manager.revocations import Revocations
from watari import paging, rpc
from watari.v1 import manager_pb2


class DelegationCalls:
    """The part of ManagerService that is about standing delegations. Callers: tenants for their own
    machines', own operators for all.
    """

    def __init__(self, revocations: Revocations, callers: Callers) -> None:
        self._revocations = revocations
        self._callers = callers

    def RevokeDelegation(
        self, request: manager_pb2.RevokeDelegationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.RevokeDelegationResponse:
        caller = rpc.current_peer()
        requests.revoke(request)
        revoked = self._revocations.revoke(
            request.delegation_id, request.reason, self._callers.person(caller), caller
        )
        return manager_pb2.RevokeDelegationResponse(delegation=revoked)

    def ListDelegations(
        self, request: manager_pb2.ListDelegationsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListDelegationsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        after = paging.decode(query, request.page_token, (str, str, str, str))
        view = self._callers.person(rpc.current_peer())
        found = self._revocations.page(view, after, size + 1)
        return manager_pb2.ListDelegationsResponse(
            delegations=[each for _, each in found[:size]],
            next_page_token=next_page(query, [position for position, _ in found], size),
        )
