"""Whose failure it is when a step fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from manager.peers import Peers
from manager.saga.copying import StepFailed
from manager.saga.record import Record
from manager.saga.steps import Party
from watari import errors


@contextmanager
def asking(party: Party) -> Iterator[None]:
    """Whatever goes wrong within is this party's."""
    try:
        yield
    except errors.WatariError as error:
        raise StepFailed(party, error) from error


@contextmanager
def asking_peer(peers: Peers, record: Record) -> Iterator[None]:
    """Whatever goes wrong within is the destination's; if it does not answer, it may have moved."""
    try:
        yield
    except errors.WatariError as error:
        if error.retryable:
            peers.refresh(record.to_cloud)
        raise StepFailed(Party.PEER, error) from error
