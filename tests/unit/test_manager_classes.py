"""Resource classes beyond the usual three: of hosts, of the cloud's pool, and between the two."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manager import capacity, checking, classes, inventory, traits, vms
from manager.inventory import HostView, Units
from manager.settings import Settings
from manager.settings.hosts import AgentSettings, ClassSettings
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, VCPUS, Rig, reason_of, request
from watari import config, errors
from watari.identity import Identity, SpiffeId
from watari.v1 import common_pb2, manager_pb2

Make = Callable[..., Rig]

SSD, GPU, ADDRESS = "disk:ssd", "accelerator:nvidia-a100", "public_ipv4"


@pytest.fixture(scope="module")
def own(federation: Federation) -> Identity:
    """osaka's manager."""
    return federation.party(OSAKA)


@pytest.fixture
def rig(tmp_path: Path, own: Identity) -> Iterator[Make]:
    """Makes a cloud with these settings."""
    made: list[Rig] = []

    def make(pool: dict[str, ClassSettings] | None = None, **of_host: object) -> Rig:
        made.append(Rig(tmp_path, own, pool=pool, **of_host))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


def wants(**changes: object) -> manager_pb2.ReserveRequest:
    """A request for further classes."""
    other = {name: amount for name, amount in changes.items() if isinstance(amount, int)}
    rest = {name: value for name, value in changes.items() if name not in other}
    made = request(**rest)  # type: ignore[arg-type]
    for name, amount in other.items():
        made.resources.other[name] = amount
    return made


def views(made: Rig) -> tuple[HostView, HostView]:
    """The host and the pool."""
    with made.store.read() as connection:
        (host,) = capacity.views(connection, made.settings.agents)
        return host, capacity.pool(connection, made.settings.pool)


def refusal(made: Rig, asked: manager_pb2.ReserveRequest) -> errors.WatariError:
    """The error of a request."""
    with pytest.raises(errors.WatariError) as caught:
        made.reservations.reserve(asked, TOKYO)
    return caught.value


def test_a_host_gives_of_a_class_what_the_operator_says_less_what_is_kept_back(rig: Make):
    made = rig(inventory={GPU: ClassSettings(total=4, reserved=1)})
    made.reservations.reserve(wants(**{GPU: 3}), TOKYO)
    error = refusal(made, wants(**{GPU: 1}))
    assert (error.reason, error.metadata["resource"]) == ("INSUFFICIENT_CAPACITY", GPU)
    host, _ = views(made)
    assert (host.held[GPU], host.free[GPU]) == (3, 0)


def test_a_class_that_nobody_has_is_refused(rig: Make):
    assert refusal(rig(), wants(**{SSD: 1})).metadata["resource"] == SSD


def test_a_class_is_oversold_by_its_own_ratio(rig: Make):
    made = rig(
        vcpu_allocation_ratio=2.0,
        inventory={SSD: ClassSettings(total=10, allocation_ratio=1.5), "vcpus": ClassSettings()},
    )
    host, _ = views(made)
    assert (host.free[SSD], host.free["vcpus"]) == (15, 2 * VCPUS)


@pytest.mark.parametrize(
    ("amount", "fits"), [(0, True), (1, False), (2, True), (5, False), (6, True), (8, False)]
)
def test_a_machine_gets_no_less_no_more_and_no_other_than_whole_steps(
    rig: Make, amount: int, fits: bool
):
    made = rig(inventory={SSD: ClassSettings(total=100, min_unit=2, max_unit=6, step_size=2)})
    asked = wants(**{SSD: amount})
    if fits:
        made.reservations.reserve(asked, TOKYO)
    else:
        error = refusal(made, asked)
        assert error.reason == "INSUFFICIENT_CAPACITY"
        assert f"{amount} of {SSD} asked, a machine gets 2 to 6 in steps of 2" in error.message


def test_bounds_without_an_end_read_well():
    assert str(Units(least=4, step=4)) == "4 or more in steps of 4"


def test_a_reservation_gets_a_host_with_what_it_requires_and_without_what_it_forbids(rig: Make):
    made = rig(traits=("rack:a", "uefi"))
    made.reservations.reserve(_with_traits(["uefi"], ["rack:b"]), TOKYO)
    error = refusal(made, _with_traits(["uefi", "sev"], ["rack:a"]))
    assert error.reason == "HOST_INCOMPATIBLE"
    assert "sev is missing, rack:a is there" in error.message


def test_of_several_hosts_only_the_suitable_ones_are_chosen_from():
    hosts = [_host("h1", "old"), _host("h2", "new"), _host("h3", "new", "slow")]
    assert [each.host_id for each in traits.suitable(hosts, ["new"], ["slow"])] == ["h2"]
    assert traits.suitable(hosts, [], []) == hosts
    assert traits.suitable([], ["new"], []) == [], "want of hosts has an error of its own"


def test_the_pool_is_counted_over_all_hosts_and_given_back(rig: Make):
    made = rig({ADDRESS: ClassSettings(total=3, reserved=1)})
    first = wants(**{ADDRESS: 2})
    made.reservations.reserve(first, TOKYO)
    error = refusal(made, wants(**{ADDRESS: 1}))
    assert error.metadata["host"] == inventory.POOL
    assert "the cloud's pool has no room" in error.message
    host, pool = views(made)
    assert (pool.held, pool.free[ADDRESS]) == ({ADDRESS: 2}, 0)
    assert ADDRESS not in host.held | host.free
    made.reservations.release(first.reservation_id, TOKYO)
    made.reservations.reserve(wants(**{ADDRESS: 1}), TOKYO)


def test_what_the_pool_cannot_give_takes_nothing_of_a_host(rig: Make):
    made = rig({ADDRESS: ClassSettings(total=1)})
    assert refusal(made, wants(**{ADDRESS: 2})).reason == "INSUFFICIENT_CAPACITY"
    host, pool = views(made)
    assert not host.held
    assert not pool.held


def test_a_machine_takes_its_part_of_the_pool(rig: Make):
    made = rig({ADDRESS: ClassSettings(total=3)})
    _machine(made, {ADDRESS: 2})
    host, pool = views(made)
    assert (host.allocated, pool.allocated) == ({"vcpus": 1}, {ADDRESS: 2})
    before = pool.generation
    _machine(made, {ADDRESS: 2})
    assert views(made)[1].generation == before, "nothing changed"
    _machine(made, {})
    assert not views(made)[1].allocated


def test_two_admissions_never_count_the_same_address(rig: Make):
    made = rig({ADDRESS: ClassSettings(total=3)})
    _, seen = views(made)
    made.reservations.reserve(wants(**{ADDRESS: 2}), TOKYO)
    with made.store.write() as connection, pytest.raises(errors.Conflict):
        capacity.take(connection, seen, capacity.RESERVATION, "x", {ADDRESS: 2})


def test_a_class_moves_between_hosts_and_pool_with_every_allocation(rig: Make):
    made = rig(inventory={ADDRESS: ClassSettings(total=8)})
    made.reservations.reserve(wants(**{ADDRESS: 2}), TOKYO)
    _machine(made, {ADDRESS: 3})
    shared = {ADDRESS: ClassSettings(total=8)}
    for pool, host_has, pool_has in ((shared, (0, 0), (3, 2)), ({}, (3, 2), (0, 0))):
        made.settings = replace(made.settings, pool=pool)
        with made.store.write() as connection:
            capacity.open_pool(connection, pool)
        for view, (allocated, held) in zip(views(made), (host_has, pool_has), strict=True):
            assert view.allocated.get(ADDRESS, 0) == allocated
            assert view.held.get(ADDRESS, 0) == held
    assert reason_of(made.reservations.reserve, wants(**{ADDRESS: 4}), TOKYO) == (
        "INSUFFICIENT_CAPACITY"
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (SSD, ClassSettings(min_unit=5, max_unit=4)),
        (SSD, ClassSettings(min_unit=3, max_unit=4, step_size=5)),
        (SSD, ClassSettings(min_unit=5, max_unit=7, step_size=4)),
        ("vcpus", ClassSettings(total=4)),
        ("x" * 65, ClassSettings()),
    ],
)
def test_settings_that_admit_nothing_or_pool_what_hosts_have_are_refused(
    rig: Make, name: str, settings: ClassSettings
):
    made = rig()
    changed = replace(made.settings, pool={name: settings})
    with pytest.raises(errors.InvalidArgument) as caught:
        checking.check(changed, SpiffeId.parse(OSAKA))
    assert caught.value.reason == "CONFIG_INVALID"


def test_the_example_of_the_documentation_is_one(tmp_path: Path):
    text = (Path(__file__).parents[2] / "docs" / "allocation.md").read_text()
    example = text.partition("```toml")[2].partition("```")[0]
    file = tmp_path / "manager.toml"
    file.write_text(
        '[manager]\ncloud_id = "tokyo"\n'
        '[manager.identity]\ncertificate = "c"\nkey = "k"\ntrust = "t"\n' + example
    )
    read = config.load(Settings, file, {}, "manager")
    checking.check(read, SpiffeId.parse("spiffe://tokyo.example/manager/main"))
    assert read.pool == {ADDRESS: ClassSettings(total=64)}
    ssd = read.agents["host-1"].inventory[SSD]
    assert (ssd.allocation_ratio, ssd.step_size) == (1.5, 1024**3)


def test_what_an_agent_tells_of_a_class_is_replaced_by_what_the_operator_says():
    said = AgentSettings("a:1", "spiffe://x/agent/h", inventory={GPU: ClassSettings(total=2)})
    assert classes.totals_of({GPU: 9, SSD: 5}, said) == {GPU: 2, SSD: 5}


def _with_traits(required: list[str], forbidden: list[str]) -> manager_pb2.ReserveRequest:
    made = request()
    made.required_traits.extend(required)
    made.forbidden_traits.extend(forbidden)
    return made


def _host(host_id: str, *has: str) -> HostView:
    return HostView(host_id, {}, {}, {}, 0, traits=frozenset(has))


def _machine(made: Rig, other: dict[str, int]) -> None:
    row = vms.VmRow(
        vm_id="6f1f2d2e-0000-4000-8000-000000000009",
        name="db-1",
        cloud_id="osaka",
        epoch=1,
        host_id="h1",
        tenant_domain="tokyo.example",
        tenant="acme",
        migration_id=None,
        body=manager_pb2.Vm(resources=common_pb2.Resources(vcpus=1, other=other)),
        seen_at=0,
    )
    with made.store.write() as connection:
        vms.put(connection, row, counted=True)
