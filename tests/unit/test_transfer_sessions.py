"""Sessions of migrations: what replaces, ends, completes and outlives what."""

import contextlib
import json
import os
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agent import files
from agent.hypervisors import domain
from agent.settings import TransferSettings
from agent.transfer import frames, spent
from tests.conftest import TOKYO, Federation
from tests.support.arriving import CONTENT, SENDER, Destination, Session
from tests.support.shelves import Content, definition, put_machine
from watari import errors
from watari.identity import SpiffeId

STRANGER = SpiffeId.parse(f"spiffe://{TOKYO}/agent/host2")
END = frames.End()


@pytest.fixture
def host(federation: Federation, tmp_path: Path) -> Iterator[Destination]:
    transfer = TransferSettings(receiving_max=2, stall_seconds_max=60)
    destination = Destination(federation, tmp_path, transfer)
    yield destination
    destination.close()


def refused(reason: str, call: Callable[[], object]) -> errors.WatariError:
    """`call` is refused for that reason."""
    with pytest.raises(errors.WatariError) as caught:
        call()
    assert caught.value.reason == reason
    return caught.value


@contextlib.contextmanager
def behind_another_call(
    host: Destination, session: Session, call: Callable[[], object]
) -> Iterator[list[object]]:
    """`call` has begun and awaits its turn while the block runs. Yields the list of its results."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    with host.sessions._migration(session.grant.migration_id):
        thread.start()
        time.sleep(0.1)
        yield results
        assert results == []
    thread.join(30)
    assert not thread.is_alive()


def test_a_machine_arrives_and_is_activated_once(host: Destination) -> None:
    session = host.open(host.grant())
    host.arrive(session)
    guest = host.sessions.activate(session.grant.migration_id, 2)
    assert host.sessions.activate(session.grant.migration_id, 2) == guest
    assert guest.disks[0].path.read_bytes() == CONTENT
    assert host.sessions.incoming() == []


def test_completing_again_gives_the_same_receipt_even_after_a_restart(host: Destination) -> None:
    session = host.open(host.grant())
    receipt = host.arrive(session)
    assert host.complete(session) == receipt
    host.sessions = host.restarted()
    assert host.complete(session) == receipt


def test_completing_twice_at_once_gives_one_receipt(host: Destination) -> None:
    session = host.open(host.grant())
    host.send(session, session.data(), END)
    with behind_another_call(host, session, lambda: host.complete(session)) as results:
        receipt = host.complete(session)
    assert results == [receipt]


def test_a_late_abort_ends_its_own_session_only(host: Destination) -> None:
    first = host.open(host.grant())
    abort = lambda: host.sessions.abort(first.session_id, SENDER)  # noqa: E731
    with behind_another_call(host, first, abort) as results:
        second = host.open(first.grant)
    assert results == [None]
    host.arrive(second)


def test_stopping_waits_for_a_session_that_is_being_completed(host: Destination) -> None:
    session = host.open(host.grant())
    host.send(session, session.data(), END)
    with behind_another_call(host, session, host.sessions.close):
        receipt = host.complete(session)
    assert host.complete(session) == receipt


def test_a_session_is_its_senders_alone(host: Destination) -> None:
    session = host.open(host.grant())
    host.send(session, session.data(), END)
    sealed = session.manifest([0, 2])
    assert host.sessions.abort(session.session_id, STRANGER) is None
    steal = lambda: host.sessions.complete(session.session_id, sealed, STRANGER)  # noqa: E731
    refused("SESSION_NOT_FOUND", steal)
    host.complete(session)
    refused("SESSION_NOT_FOUND", steal)


def test_an_aborted_session_tells_why_it_broke(host: Destination) -> None:
    session = host.open(host.grant())
    refused("DIGEST_MISMATCH", lambda: host.send(session, session.data(digest_of=bytes(100_000))))
    problem = host.sessions.abort(session.session_id, SENDER)
    assert problem is not None
    assert problem.reason == "DIGEST_MISMATCH"
    assert host.sessions.abort(session.session_id, SENDER) is None
    refused("SESSION_NOT_FOUND", lambda: host.complete(session))


def test_a_new_session_voids_the_receipt_of_an_earlier_one(host: Destination) -> None:
    first = host.open(host.grant())
    host.arrive(first)
    second = host.open(first.grant)
    refused("MIGRATION_STATE", lambda: host.sessions.activate(first.grant.migration_id, 2))
    refused("SESSION_NOT_FOUND", lambda: host.complete(first))
    assert [each.complete for each in host.sessions.incoming()] == [False]
    host.arrive(second)
    assert [each.complete for each in host.sessions.incoming()] == [True]


def test_a_session_in_place_of_a_running_one_ends_that(host: Destination) -> None:
    first = host.open(host.grant())
    host.open(first.grant)
    refused("SESSION_NOT_FOUND", lambda: host.send(first, first.data(), END))


def test_what_was_discarded_is_refused_until_no_grant_can_be_valid(host: Destination) -> None:
    session = host.open(host.grant())
    host.sessions.discard(session.grant.migration_id)
    refused("SESSION_NOT_FOUND", lambda: host.send(session, session.data(), END))
    refused("MIGRATION_STATE", lambda: host.open(session.grant))
    assert host.sessions.incoming() == []
    host.clock.advance(7 * 86400 - 60)
    host.sessions.sweep()
    marker = host.folder / "incoming" / ".discarded" / session.grant.migration_id
    assert marker.exists()
    host.clock.advance(120)
    host.sessions.sweep()
    assert not marker.exists()


def test_what_was_activated_is_neither_discarded_nor_sent_again(host: Destination) -> None:
    session = host.open(host.grant())
    host.arrive(session)
    host.sessions.activate(session.grant.migration_id, 2)
    refused("MIGRATION_COMMITTED", lambda: host.sessions.discard(session.grant.migration_id))
    refused("MIGRATION_STATE", lambda: host.open(session.grant))


def leave(host: Destination, vm_id: str) -> str:
    """The machine is handed over to elsewhere; returns the migration that took it away."""
    migration_id = str(uuid.uuid4())
    host.shelf.hold(vm_id, migration_id)
    host.shelf.retire(vm_id, migration_id)
    return migration_id


def test_a_grant_brings_its_machine_once_whatever_became_of_that(host: Destination) -> None:
    session = host.open(host.grant())
    host.arrive(session)
    host.sessions.activate(session.grant.migration_id, 2)
    away = leave(host, session.grant.vm_id)
    refused("MIGRATION_STATE", lambda: host.open(session.grant))
    host.shelf.purge(away)
    host.sessions = host.restarted()
    refused("MIGRATION_STATE", lambda: host.open(session.grant))
    host.clock.advance(299)
    host.sessions.sweep()
    refused("MIGRATION_STATE", lambda: host.open(session.grant))
    host.clock.advance(2)
    host.sessions.sweep()
    assert json.loads((host.folder / "incoming" / ".spent.json").read_bytes()) == {}
    assert "expired" in refused("GRANT_INVALID", lambda: host.open(session.grant)).message


def test_a_grant_is_spent_before_there_is_a_machine(
    host: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between leaves an order that is carried out when it is given again."""
    session = host.open(host.grant())
    host.arrive(session)

    def crash(*_: object, **_how: object) -> None:
        raise errors.Internal("INTERNAL", "the host is gone")

    with monkeypatch.context() as crashing:
        crashing.setattr(host.shelf, "activate", crash)
        refused("INTERNAL", lambda: host.sessions.activate(session.grant.migration_id, 2))
    host.sessions = host.restarted()
    refused("MIGRATION_STATE", lambda: host.open(session.grant))
    assert host.sessions.activate(session.grant.migration_id, 2).epoch == 2


@pytest.mark.parametrize("purged", [True, False])
def test_a_machine_comes_back_at_a_later_epoch_only(host: Destination, purged: bool) -> None:
    """Also after its retained copy is gone, as long as an earlier grant could be shown."""
    session = host.open(host.grant())
    host.arrive(session)
    host.sessions.activate(session.grant.migration_id, 2)
    away = leave(host, session.grant.vm_id)
    if purged:
        host.shelf.purge(away)
    for stale in (1, 2):
        grant = host.grant(vm_id=session.grant.vm_id)
        grant.source_epoch = stale
        assert "epoch" in refused("GRANT_INVALID", lambda grant=grant: host.open(grant)).message
    grant.source_epoch = 3
    host.arrive(host.open(grant))


def test_a_machine_that_was_made_here_comes_back_at_a_later_epoch_only(host: Destination) -> None:
    vm_id = put_machine(host.folder, "web", {"vda": Content(1)})
    leave(host, vm_id)
    grant = host.grant(vm_id=vm_id)
    refused("GRANT_INVALID", lambda: host.open(grant))
    grant.source_epoch = 2
    host.open(grant)


def test_a_grant_that_outlives_what_is_remembered_is_refused(host: Destination) -> None:
    grant = host.grant()
    grant.expires_at.FromDatetime(host.clock.now() + timedelta(days=7, seconds=1))
    assert "remembers" in refused("GRANT_INVALID", lambda: host.open(grant)).message
    grant.expires_at.FromDatetime(host.clock.now() + timedelta(days=7))
    host.open(grant)


def test_no_more_uses_are_remembered_than_the_limit_and_none_is_forgotten_for_it(
    host: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spent, "SPENT_MAX", 1)
    session = host.open(host.grant())
    host.arrive(session)
    host.sessions.activate(session.grant.migration_id, 2)
    assert refused("TOO_MANY_TRANSFERS", lambda: host.open(host.grant())).retryable
    host.clock.advance(301)
    host.sessions.sweep()
    host.open(host.grant())


def test_what_an_earlier_release_began_is_activated_and_spent_too(host: Destination) -> None:
    session = host.open(host.grant())
    host.arrive(session)
    record = host.folder / "incoming" / session.grant.migration_id / "session.json"
    kept = json.loads(record.read_bytes())
    del kept["epoch"], kept["expires_at"]
    record.write_text(json.dumps(kept))
    host.sessions.activate(session.grant.migration_id, 2)
    host.shelf.purge(leave(host, session.grant.vm_id))
    refused("MIGRATION_STATE", lambda: host.open(session.grant))


def test_a_machine_that_is_here_does_not_arrive(host: Destination) -> None:
    vm_id = put_machine(host.folder, "web", {"vda": Content(1)})
    refused("VM_ALREADY_THERE", lambda: host.open(host.grant(vm_id=vm_id)))


def test_nothing_that_is_not_complete_is_activated(host: Destination) -> None:
    session = host.open(host.grant())
    host.send(session, session.data(), END)
    refused("MIGRATION_STATE", lambda: host.sessions.activate(session.grant.migration_id, 2))
    refused("TRANSFER_NOT_FOUND", lambda: host.sessions.activate(str(uuid.uuid4()), 2))


def test_only_so_many_sessions_are_open_and_idle_ones_make_room(host: Destination) -> None:
    sessions = [host.open(host.grant()) for _ in range(2)]
    assert refused("TOO_MANY_TRANSFERS", lambda: host.open(host.grant())).retryable
    host.clock.advance(59)
    host.sessions.sweep()
    refused("TOO_MANY_TRANSFERS", lambda: host.open(host.grant()))
    host.send(sessions[0], sessions[0].data(), END)
    host.clock.advance(2)
    host.sessions.sweep()
    refused("SESSION_NOT_FOUND", lambda: host.send(sessions[1], sessions[1].data(), END))
    host.complete(sessions[0])


def deep(vm_id: str) -> str:
    """A definition that is read without trouble, and whose writing would exhaust the stack."""
    nested = "<a>" * 5000 + "</a>" * 5000
    return definition(vm_id, "web", {"vda": "vda.raw"}).replace("<os>", nested + "<os>")


def growing(vm_id: str) -> str:
    """A definition within the limit that is beyond it once it is written again."""
    text = "<title>" + ">" * (domain.DEFINITION_BYTES_MAX // 2) + "</title>"
    return definition(vm_id, "web", {"vda": "vda.raw"}).replace("<os>", text + "<os>")


@pytest.mark.parametrize("make", [deep, growing])
def test_a_definition_that_could_not_be_activated_is_refused_before_any_data(
    host: Destination, make: Callable[[str], str]
) -> None:
    grant = host.grant()
    refused("VM_DEFINITION_INVALID", lambda: host.open(grant, make(grant.vm_id)))
    assert host.sessions.incoming() == []


def test_another_machines_definition_is_refused(host: Destination) -> None:
    grant = host.grant()
    other = definition(str(uuid.uuid4()), "web", {"vda": "vda.raw"})
    more = definition(grant.vm_id, "web", {"vda": "vda.raw", "vdb": "vdb.raw"})
    for xml in (other, more):
        refused("VM_DEFINITION_INVALID", lambda xml=xml: host.open(grant, xml))


def test_everything_is_on_stable_storage_before_there_is_a_receipt(
    host: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power a receipt without its disk would be a lost machine."""
    flushed: list[Path] = []

    def recording(sync: Callable[[int], None]) -> Callable[[int], None]:
        def recorded(descriptor: int) -> None:
            flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            sync(descriptor)

        return recorded

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, recording(getattr(os, name)))
    session = host.open(host.grant())
    incoming = host.folder / "incoming"
    arrived = incoming / session.grant.migration_id
    assert incoming in flushed
    host.send(session, session.data(), END)
    flushed.clear()
    host.complete(session)
    names = [str(path.relative_to(incoming)) for path in flushed]
    last = names.index(f"{arrived.name}/.receipt.bin.partial")
    assert f"{arrived.name}/vda.raw" in names[:last]
    assert f"{arrived.name}/.arrived.xml.partial" in names[:last]
    assert names[last + 1 :] == [arrived.name]


def test_a_full_disk_is_called_that_whatever_is_written(host: Destination) -> None:
    grant, vm_id = host.grant(), put_machine(host.folder, "web", {"vda": Content(1)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        refused("DISK_FULL", lambda: host.open(grant))
        refused("DISK_FULL", lambda: host.shelf.hold(vm_id, grant.migration_id))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    host.arrive(host.open(grant))


def test_a_folder_that_goes_away_while_it_is_measured_counts_nothing(tmp_path: Path) -> None:
    assert files.allocated_bytes(tmp_path / "gone") == 0
