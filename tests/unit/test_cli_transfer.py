"""The options of a transfer, and what is said of its caps."""

import pytest

from watari import errors, windows
from watari.cli import migration, views
from watari.cli.migrate import migrate
from watari.cli.plain import plain
from watari.cli.transfer import Transfer, shown
from watari.v1 import common_pb2, manager_pb2


def test_windows_travel_in_the_order_in_which_they_were_given() -> None:
    given = ["12:00-13:00=0", "08:00-18:00=10M"]
    options = Transfer(limit="50M", limit_window=given).options()
    assert options.limit_bytes_per_second == 50_000_000
    assert list(options.limit_schedule) == [windows.parse(each) for each in given]
    assert not Transfer().options().limit_schedule


@pytest.mark.parametrize(
    ("transfer", "reason"),
    [
        (Transfer(limit="1KiB"), "INVALID_FIELD"),
        (Transfer(limit_window=["08:00-18:00=1KiB"]), "INVALID_FIELD"),
        (Transfer(limit_window=["08:00-18:00=10M"] * 17), "INVALID_FIELD"),
        (Transfer(limit_window=["8-18=10M"]), "INVALID_QUANTITY"),
        (Transfer(limit="fast"), "INVALID_QUANTITY"),
    ],
)
def test_what_cannot_work_is_refused_before_anybody_is_asked(
    transfer: Transfer, reason: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        transfer.options()
    assert caught.value.reason == reason


def test_caps_are_said_in_words() -> None:
    day = windows.parse("08:00-18:00=10MiB")
    assert shown(0, []) == "no limit"
    assert shown(0, [day]) == "no limit (08:00-18:00 10.0 MiB/s)"
    options = common_pb2.TransferOptions(limit_bytes_per_second=1 << 20, limit_schedule=[day])
    assert views.limits(plain(options)) == "1.0 MiB/s; 08:00-18:00 10.0 MiB/s"
    assert views.limits(plain(common_pb2.TransferOptions())) == ""
    assert views.limits(None) == ""


@pytest.mark.parametrize(
    "options",
    [{"place": True}, {"to": "osaka", "detach": True}, {"to": "osaka", "migration_id": "x"}],
)
def test_a_dry_run_takes_no_option_that_starts_something(options: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidArgument, match="--dry-run") as caught:
        migrate(None, "web-1", dry_run=True, **options)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_migration_that_copies_is_shown_with_all_that_is_known_of_its_transfer() -> None:
    running = manager_pb2.Migration(state=manager_pb2.MIGRATION_STATE_COPYING)
    running.options.limit_bytes_per_second = 1 << 20
    running.progress.MergeFrom(
        common_pb2.Progress(
            total_bytes=4 << 30,
            needed_bytes=1 << 30,
            deduplicated_bytes=2 << 20,
            zero_bytes=3 << 20,
            sent_bytes=4 << 20,
            wire_bytes=5 << 20,
            rate_bytes_per_second=6 << 20,
            eta_seconds=90,
            bottleneck=common_pb2.BOTTLENECK_NETWORK,
            attempt=2,
            streams=4,
            compression_level=3,
            round_trip_seconds=0.12,
        )
    )
    told = {name: value for name, value in migration._facts(plain(running)) if value}
    expected = {
        "disks": "4.0 GiB",
        "needed there": "1.0 GiB",
        "already there": "2.0 MiB",
        "zeros": "3.0 MiB",
        "sent": "4.0 MiB",
        "on the wire": "5.0 MiB",
        "rate": "6.0 MiB/s",
        "time left": "1 min 30 s",
        "held back by": "network",
        "connections": "4",
        "zstd level": "3",
        "round trip": "120 ms",
        "limit": "1.0 MiB/s",
        "attempt": "2",
    }
    assert expected.items() <= told.items()
    running.state = manager_pb2.MIGRATION_STATE_SUCCEEDED
    ended = {name for name, value in migration._facts(plain(running)) if value}
    assert not ended & {"rate", "time left", "held back by", "connections", "zstd level"}
