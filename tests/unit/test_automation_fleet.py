"""What managers may tell, and how long a broker listens."""

import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from broker.automation import fleet
from broker.automation.fleet import Fleet
from broker.automation.policy_rows import Held, Tenant
from broker.automation.rests import Rests
from broker.snapshot import build
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari import errors
from watari.clock import FakeClock
from watari.settings import EndpointSettings
from watari.v1 import broker_pb2, common_pb2, manager_pb2

SAID = common_pb2.StandingDelegation(from_clouds=["tokyo", "osaka", "gone"])
HELD = Held(
    Tenant("tokyo.example", "acme"),
    "p",
    1,
    broker_pb2.Policy(),
    common_pb2.SignedDocument(payload=SAID.SerializeToString()),
    "acme",
)
SNAPSHOT = build([records.cloud("tokyo"), records.cloud("osaka")], 1, NOW)

Pages = Callable[[str], manager_pb2.ListVmsResponse]


class Manager:
    """Tells pages by their token, and counts how often it was asked."""

    def __init__(self, pages: Pages) -> None:
        self.asked = 0
        self._pages = pages

    def list_vms(
        self, delegation: common_pb2.SignedDocument, page_size: int, page_token: str
    ) -> manager_pb2.ListVmsResponse:
        assert delegation == HELD.document
        self.asked += 1
        return self._pages(page_token)

    def estimate(
        self, request: manager_pb2.EstimateMigrationRequest, seconds_max: float
    ) -> manager_pb2.EstimateMigrationResponse:
        raise NotImplementedError

    def get_migration(
        self, migration_id: str, delegation: common_pb2.SignedDocument
    ) -> manager_pb2.Migration:
        raise NotImplementedError


def vm(vm_id: str = "", name: str = "web") -> manager_pb2.Vm:
    return manager_pb2.Vm(vm_id=vm_id or str(uuid.uuid4()), name=name, cloud_id="elsewhere")


def listed(*vms: manager_pb2.Vm, more: bool = False) -> manager_pb2.ListVmsResponse:
    return manager_pb2.ListVmsResponse(vms=vms, next_page_token="more" if more else "")


def asked(
    tokyo: Pages, osaka: Pages, clock: FakeClock | None = None
) -> tuple[Fleet, dict[str, Manager]]:
    found = {"tokyo": Manager(tokyo), "osaka": Manager(osaka)}

    def managers(endpoint: EndpointSettings) -> Manager:
        return found[endpoint.spiffe_id.split("/")[2].partition(".")[0]]

    return Fleet(managers, SNAPSHOT, Rests(clock or FakeClock(NOW), 300.0)), found


def test_machines_are_gathered_page_by_page_each_in_the_cloud_that_told_of_it() -> None:
    first, second, other = vm(), vm(), vm()
    seen, _ = asked(
        lambda token: listed(second) if token else listed(first, more=True),
        lambda _: listed(other),
    )
    found, missed = seen.machines(HELD, 10)
    assert {vm_id: one.cloud_id for vm_id, one in found.items()} == {
        other.vm_id: "osaka",
        first.vm_id: "tokyo",
        second.vm_id: "tokyo",
    }
    assert list(missed) == ["gone"]
    assert "CLOUD_NOT_FOUND" in missed["gone"]


def test_what_makes_no_sense_is_left_out() -> None:
    good = vm()
    seen, _ = asked(
        lambda _: listed(vm("no-uuid"), vm(name="x" * 999), vm(name="bell\x07"), good),
        lambda _: listed(),
    )
    assert list(seen.machines(HELD, 10)[0]) == [good.vm_id]


def test_a_machine_that_two_clouds_claim_is_left_alone_and_told_of() -> None:
    shared, good = vm(), vm()
    seen, _ = asked(lambda _: listed(shared, good), lambda _: listed(shared))
    found, missed = seen.machines(HELD, 10)
    assert list(found) == [good.vm_id]
    assert missed[shared.vm_id] == f"machine {shared.vm_id}: both osaka and tokyo say it is theirs"


@pytest.mark.parametrize("page", [listed(more=True), listed(vm(), more=True)])
def test_a_list_without_an_end_is_not_read_for_ever(
    page: manager_pb2.ListVmsResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "PAGES_MAX", 7)
    seen, managers = asked(lambda _: page, lambda _: listed())
    _, missed = seen.machines(HELD, 10)
    assert "more than 10 machines" in missed[""]
    assert managers["tokyo"].asked == 7


def test_beyond_the_machines_that_are_looked_at_it_is_said() -> None:
    many = [vm() for _ in range(5)]
    seen, _ = asked(lambda _: listed(*many), lambda _: listed())
    found, missed = seen.machines(HELD, 3)
    assert len(found) == 3
    assert "more than 3 machines" in missed[""]


def test_a_manager_that_was_silent_is_asked_no_second_time() -> None:
    def silent(_: str) -> manager_pb2.ListVmsResponse:
        raise errors.Unavailable("PEER_UNAVAILABLE", "nobody there")

    seen, managers = asked(silent, lambda _: listed())
    for _ in range(3):
        _, missed = seen.machines(HELD, 10)
        assert "nobody there" in missed["tokyo"]
    assert (managers["tokyo"].asked, managers["osaka"].asked) == (1, 3)


def test_a_manager_that_refused_is_asked_again_after_a_while_or_for_another_generation() -> None:
    def refuses(_: str) -> manager_pb2.ListVmsResponse:
        raise errors.Denied("DELEGATION_INVALID", "not for you", hint="sign another")

    clock = FakeClock(NOW)
    seen, managers = asked(refuses, lambda _: listed(), clock)
    for _ in range(3):
        assert "not for you" in seen.machines(HELD, 10)[1]["tokyo"]
    assert (managers["tokyo"].asked, managers["osaka"].asked) == (1, 3)
    seen.machines(replace(HELD, generation=2), 10)
    assert managers["tokyo"].asked == 2
    clock.advance(299.0)
    seen.machines(HELD, 10)
    assert managers["tokyo"].asked == 2
    clock.advance(2.0)
    seen.machines(HELD, 10)
    assert managers["tokyo"].asked == 3
