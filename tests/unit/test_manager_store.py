"""The manager's database, requests and small parts."""

import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from manager import grants, outbox, requests, tables, usage
from manager.events import Board
from manager.outbox import Kind, OwedCall
from manager.ownership import EVERYTHING, Tenant, View
from manager.settings.store import StoreSettings
from manager.store import Store, micros, moment
from tests.conftest import OSAKA, TOKYO
from watari import errors
from watari.clock import FakeClock, SystemClock
from watari.v1 import common_pb2, manager_pb2

GIB = 1024**3


def test_the_database_and_the_files_beside_it_are_their_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    path.touch(mode=0o644)  # of an earlier release
    store = Store(StoreSettings(path=path))
    with store.write() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
        files = [each for each in tmp_path.iterdir() if each.suffix != ".lock"]
        assert len(files) == 3
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(StoreSettings(path=tmp_path / "new" / "db.sqlite", write_wait_seconds_max=0.2))
    yield opened
    opened.close()


def test_every_commit_is_flushed_and_readers_do_not_block_the_writer(store: Store) -> None:
    with store.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.execute(tables.usage_records.select()).all() == []
        with store.write() as writer:
            usage.write(writer, manager_pb2.UsageRecord(usage_id="u"), TOKYO)
        seen = connection.execute(tables.usage_records.select()).all()
    assert seen == []


def test_two_managers_never_share_a_database(store: Store, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="another manager") as caught:
        Store(StoreSettings(path=tmp_path / "new" / "db.sqlite"))
    assert caught.value.reason == "CONFIG_INVALID"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    path.write_text("not a database at all, and longer than a header of SQLite would be" * 20)
    with pytest.raises(errors.InvalidArgument, match="cannot be opened"):
        Store(StoreSettings(path=path))


def test_moments_keep_their_microseconds() -> None:
    now = SystemClock().now()
    assert moment(micros(now)) == now


def usage_of(connection: Connection, view: View, tenant: str) -> Sequence[object]:
    """What a view shows of a tenant's usage."""
    return usage.page(connection, view, tenant=tenant, vm_id="", after=0, limit=10)


def test_usage_is_written_once_whatever_is_repeated(store: Store) -> None:
    hand_over = common_pb2.HandOver(migration_id=str(uuid.uuid4()))
    vm = manager_pb2.Vm(vm_id=str(uuid.uuid4()), tenant="acme")
    for _ in range(3):
        record = usage.of_hand_over(
            usage.LEFT, vm, cloud_id="tokyo", peer_cloud="osaka", hand_over=hand_over
        )
        with store.write() as connection:
            usage.write(connection, record, TOKYO)
    with store.read() as connection:
        assert len(usage_of(connection, EVERYTHING, "acme")) == 1
        assert not usage_of(connection, EVERYTHING, "other")
        assert len(usage_of(connection, View(Tenant(TOKYO, "acme")), "")) == 1
        assert not usage_of(connection, View(Tenant(OSAKA, "acme")), "")
        assert not usage_of(connection, View(Tenant(TOKYO, "other")), "acme")
    ids = {usage.usage_id(hand_over.migration_id, kind) for kind in (usage.LEFT, usage.ARRIVED)}
    assert len(ids) == 2


def test_an_owed_call_comes_again_ever_later_until_it_is_settled(store: Store) -> None:
    call = OwedCall(Kind.DISCARD, str(uuid.uuid4()), "host1", str(uuid.uuid4()))
    now, delays = 0, []
    with store.write() as connection:
        outbox.owe(connection, call, now)
        outbox.owe(connection, call, now)
    for _ in range(9):
        with store.write() as connection:
            (due,) = outbox.due(connection, now, 10)
            outbox.postpone(connection, due, now)
            assert not outbox.due(connection, now, 10)
            later = now
            while not outbox.due(connection, later, 10):
                later += 500_000
        delays.append((later - now) // 1_000_000)
        now = later
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    with store.write() as connection:
        outbox.settle(connection, call)
        assert not outbox.due(connection, now + 10**12, 10)


def test_a_grant_allows_the_disks_and_a_bounded_slack() -> None:
    disks = [common_pb2.DiskSpec(size_bytes=400 * GIB), common_pb2.DiskSpec(size_bytes=0)]
    assert grants.bytes_max(disks, 10) == 440 * GIB
    assert grants.bytes_max([], 10) == grants.SLACK_BYTES_MIN


def reserve(**changes: object) -> manager_pb2.ReserveRequest:
    """A request that is acceptable unless changed."""
    made = manager_pb2.ReserveRequest(
        reservation_id=str(uuid.uuid4()),
        migration_id=str(uuid.uuid4()),
        from_cloud="tokyo",
        vm_id=str(uuid.uuid4()),
        vm_name="web-1",
        tenant="acme",
        source_epoch=1,
        resources=common_pb2.Resources(vcpus=1, disk_bytes=10),
        disks=[common_pb2.DiskSpec(disk_id="vda", size_bytes=10)],
        source_agent="spiffe://tokyo.example/agent/host1",
        ttl_seconds=60,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_an_acceptable_reservation_passes() -> None:
    requests.reserve(reserve())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reservation_id", "x"),
        ("migration_id", ""),
        ("vm_id", "6F1F2D2E-0000-4000-8000-000000000001"),
        ("from_cloud", "Tokyo"),
        ("vm_name", ""),
        ("vm_name", "a\nb"),
        ("vm_name", "x" * 257),
        ("tenant", ""),
        ("source_epoch", 0),
        ("source_epoch", 2**63),
        ("ttl_seconds", 9),
        ("ttl_seconds", 86_401),
        ("source_agent", "spiffe://tokyo.example/manager/main"),
        ("source_agent", "tokyo"),
    ],
)
def test_a_reservation_out_of_bounds_is_refused(field: str, value: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        requests.reserve(reserve(**{field: value}))


def test_disks_must_be_few_distinct_and_covered_by_what_is_asked() -> None:
    twice, many, large, unbounded = reserve(), reserve(), reserve(), reserve()
    twice.disks.append(twice.disks[0])
    many.disks.extend(common_pb2.DiskSpec(disk_id=f"d{n}") for n in range(64))
    large.disks[0].size_bytes = 11
    unbounded.disks[0].allocated_bytes = 2**60
    for bad in (twice, many, large, unbounded):
        with pytest.raises(errors.InvalidArgument):
            requests.reserve(bad)


@pytest.mark.parametrize(
    "options",
    [
        common_pb2.TransferOptions(streams=17),
        common_pb2.TransferOptions(compression_level=20),
        common_pb2.TransferOptions(compression_level=-8),
        common_pb2.TransferOptions(cipher_key_bits=192),
        common_pb2.TransferOptions(limit_bytes_per_second=2**60),
    ],
)
def test_transfer_options_out_of_bounds_are_refused(options: common_pb2.TransferOptions) -> None:
    request = manager_pb2.MigrateVmRequest(
        migration_id=str(uuid.uuid4()), vm="web-1", to_cloud="osaka", options=options
    )
    with pytest.raises(errors.InvalidArgument):
        requests.migrate(request)


def test_an_estimate_is_asked_for_without_what_belongs_to_a_reservation() -> None:
    asked = reserve()
    asked.ClearField("reservation_id")
    asked.ClearField("ttl_seconds")
    requests.grant_estimate(manager_pb2.GrantEstimateRequest(reserve=asked))
    asked.quote.purpose = "quote"
    with pytest.raises(errors.InvalidArgument, match="an estimate reserves nothing"):
        requests.grant_estimate(manager_pb2.GrantEstimateRequest(reserve=asked))


def migration(state: int, generation: int, *, ended: bool = False) -> manager_pb2.Migration:
    """A state of a migration, as it is announced."""
    made = manager_pb2.Migration(migration_id="m", state=state, generation=generation)  # type: ignore[arg-type]
    if ended:
        made.ended_at.seconds = 1
    return made


def test_a_slow_watcher_misses_no_state() -> None:
    board = Board(FakeClock(auto_advance=True), watchers_max=1)
    now = [migration(1, 1)]
    with board.watching("m", lambda: now[0], lambda: False) as changes:
        assert next(changes).generation == 1
        for generation in range(2, 6):
            now[0] = migration(generation, generation, ended=generation == 5)
            board.state_changed(now[0])
        assert [each.generation for each in changes] == [2, 3, 4, 5]


def test_progress_is_merged_and_reaches_the_watcher_with_the_state() -> None:
    board = Board(FakeClock(auto_advance=True), watchers_max=1)
    with board.watching("m", lambda: board.fill(migration(3, 3)), lambda: False) as changes:
        next(changes)
        for done in range(1, 100):
            board.progress("m", common_pb2.Progress(done_bytes=done))
        assert next(changes).progress.done_bytes == 99
        board.waits_for("m", common_pb2.Problem(reason="PEER_UNAVAILABLE"))
        assert next(changes).waiting_for.reason == "PEER_UNAVAILABLE"
        board.state_changed(migration(7, 4, ended=True))
        final = list(changes)
    assert [each.generation for each in final] == [4]
    assert not final[0].HasField("waiting_for")


def test_watchers_are_few_and_one_that_left_makes_room() -> None:
    board = Board(FakeClock(auto_advance=True), watchers_max=1)

    def watch():
        return board.watching("m", lambda: migration(3, 1), lambda: True)

    with (
        watch(),
        pytest.raises(errors.Unavailable, match="1 migrations are being watched"),
        watch(),
    ):
        pass
    with watch() as changes:
        assert len(list(changes)) == 1


def test_a_state_that_was_never_announced_reaches_the_watcher_all_the_same() -> None:
    board = Board(FakeClock(auto_advance=True), watchers_max=1)
    now = [migration(3, 3)]
    with board.watching("m", lambda: now[0], lambda: False) as changes:
        next(changes)
        now[0] = migration(7, 4, ended=True)
        assert [each.generation for each in changes] == [4]


def test_no_state_is_skipped_for_a_later_one_that_was_read_first() -> None:
    board = Board(FakeClock(auto_advance=True), watchers_max=1)
    now = [migration(3, 3)]
    with board.watching("m", lambda: now[0], lambda: False) as changes:
        next(changes)
        board.state_changed(migration(4, 4))
        now[0] = migration(7, 5, ended=True)
        assert [each.generation for each in changes] == [4, 5]
