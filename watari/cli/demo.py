"""`watari demo`: the whole crossing on this machine, with real servers, disks and bytes.

Makes a federation and a machine, lets the broker place it, migrates it, and compares the disks
itself, byte by byte. Everything is made for the occasion and removed after it.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from watari import errors, units
from watari.cli import follow, image, place, shelf, sparse, stage, views, vm
from watari.cli.constraints import NO_CONSTRAINTS
from watari.cli.exits import MIGRATE_EPILOG
from watari.cli.federation import control
from watari.cli.federation.layout import CLOUDS, Layout
from watari.cli.invocation import LOCAL_PANEL, Invocation, command
from watari.cli.migrate import Order, Started, start_placed
from watari.cli.output import Output, facts, table
from watari.cli.plain import plain
from watari.v1 import broker_pb2, common_pb2, manager_pb2

VM_NAME = "web-1"
VCPUS, MEMORY_BYTES = 2, 2 * 1024**3

DATA_DISK_BYTES = 64 * 1024**2 + 512
"""The second disk: its size is no multiple of anything that a transfer counts in."""

DATA_DISK_CONTENT_BYTES = 8 * 1024**2

COPIES = 4
"""Of the data at once, at most: the files and the image, or the image, source and destination."""

SOURCE_TREE = Path("/usr")
"""Where the machine's files come from: real ones, and there on every machine."""

TITLE_COLUMNS = 12
"""Of the line that tells what an act came to."""


@dataclass(frozen=True)
class Report:
    """What came out."""

    vm: str
    vm_id: str
    from_cloud: str
    to_cloud: str
    migration_id: str
    raw_bytes: int
    """Sum of the disks' sizes."""
    wire_bytes: int
    """Sealed bytes that crossed."""
    seconds: float
    """From the request to the end of the migration."""
    throughput_bytes_per_second: float
    """Raw bytes per second."""
    allocated_source_bytes: int
    allocated_destination_bytes: int
    identical: bool
    """Whether every byte at the destination is that of the original and of the retained copy."""
    hourly_price: dict[str, str] | None
    """Of the machine where it is now."""
    accounts_agree: bool
    """Whether both clouds metered the crossing with the receipt's root and bytes."""
    receipt_root: str
    """Hexadecimal."""


def add(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "demo", epilog=MIGRATE_EPILOG, panel=LOCAL_PANEL, places=False)(demo)


def demo(
    invocation: Invocation,
    own_image: Annotated[
        Path | None,
        typer.Option("--image", metavar="PATH", help="A raw disk image of yours, copied."),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="Size of the disk that is made otherwise.")
    ] = "3GiB",
    data: Annotated[
        str, typer.Option(metavar="SIZE", help="How much of /usr is put on it.")
    ] = "300MiB",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder afterwards.")] = False,
) -> None:
    """Migrate a real disk between two clouds on this machine.

    Every byte of it is compared afterwards. Takes half a minute and 4 GiB
    of free room, which --size and --data change. Nothing is left behind, and
    nothing outside its own temporary folder is touched.
    """
    size_bytes, data_bytes = units.parse_bytes(size), units.parse_bytes(data)
    if own_image is not None:
        shelf.check_images([own_image])
        size_bytes, data_bytes = own_image.stat().st_size, sparse.allocated_bytes(own_image)
    output = invocation.output
    output.say("A machine crosses from one cloud to another, all on this machine.\n")
    with stage.temporary(output, invocation.clock, keep=keep) as layout:
        # A cloud takes no machine whose disks could not grow to their full size.
        needed_bytes = max(COPIES * data_bytes, size_bytes + DATA_DISK_BYTES)
        stage.require_room(layout.root.parent, needed_bytes)
        disks = _make_disks(output, layout.root.parent, own_image, size_bytes, data_bytes)
        with _step(output, "Federation") as say:
            control.up(layout, invocation.clock, os.environ, lambda _step: None)
            clouds = ", ".join(cloud.display_name for cloud in CLOUDS)
            say(f"{clouds}, a directory and a broker: six processes, mutual TLS")
        with Invocation(output, layout, layout.client, invocation.clock) as federation:
            report = _play(federation, disks)
    output.record(asdict(report), facts(_facts(report)))
    if not report.identical:
        raise errors.DataLoss("DIGEST_MISMATCH", "the disks at the destination are not the same")
    if not report.accounts_agree:
        raise errors.DataLoss("RECEIPT_MISMATCH", "the clouds metered something else")


def _make_disks(
    output: Output, folder: Path, own_image: Path | None, size_bytes: int, data_bytes: int
) -> tuple[Path, ...]:
    """The original disks, which stay as they are for the comparison."""
    with _step(output, "Disks") as say:
        system, other = folder / "system.raw", folder / "data.raw"
        if own_image is None:
            made = image.make_system_disk(system, size_bytes, data_bytes, SOURCE_TREE)
            what = f"with {made.files} files of {SOURCE_TREE}"
        else:
            system, what = own_image, f"of {own_image.name}"
        image.make_data_disk(other, DATA_DISK_BYTES, DATA_DISK_CONTENT_BYTES)
        whole, used = map(
            units.format_bytes, (system.stat().st_size, sparse.allocated_bytes(system))
        )
        say(f"{whole} {what} ({used} used), and a small one")
    return system, other


def _play(federation: Invocation, disks: tuple[Path, ...]) -> Report:
    output, source = federation.output, CLOUDS[0].cloud_id
    machine = shelf.Machine(VM_NAME, VCPUS, MEMORY_BYTES, "default", disks)
    with _step(output, "Machine") as say:
        imported = vm.put(federation, source, machine, move=False)
        say(f"{VM_NAME} in {source}, {len(disks)} disks")
    _place(federation, imported.resources)
    started, migration = _migrate(federation, imported)
    with _step(output, "Check") as say:
        identical = _identical(federation.layout, migration, disks)
        say("every byte is that of the original" if identical else "THE DISKS DIFFER")
    agree = _accounts_agree(federation, migration)
    return _report(federation.layout, started, migration, identical=identical, accounts_agree=agree)


def _place(federation: Invocation, resources: common_pb2.Resources) -> None:
    """Shows how the broker ranks the clouds for such a machine, were it in neither."""
    with _step(federation.output, "Placement") as say:
        request = broker_pb2.PlaceRequest(
            request_id=str(uuid.uuid4()), requirements=broker_pb2.Requirements(resources=resources)
        )
        placement = place.placed(federation.clients.broker().place(request))
        ranked = ", ".join(one["cloud_id"] for one in placement["candidates"])
        say(f"the broker ranks {ranked}" if ranked else "no cloud fits")
    federation.output.show(*_below(*place.shown(placement)))
    place.require_candidate(placement)


def _migrate(
    federation: Invocation, machine: manager_pb2.Vm
) -> tuple[Started, manager_pb2.Migration]:
    """Lets the broker choose and start, and watches to the end. Raises unless it succeeded."""
    migration_id = str(uuid.uuid4())
    manager = federation.clients.manager(machine.cloud_id)
    order = Order(migration_id, manager, machine, common_pb2.TransferOptions())
    started = start_placed(federation.clients, order, NO_CONSTRAINTS, federation.clock)
    final = follow.to_the_end(federation, manager, migration_id)
    if final.state == manager_pb2.MIGRATION_STATE_SUCCEEDED:
        with _step(federation.output, "Migration") as say:
            say(f"{final.from_cloud} to {final.to_cloud}: {follow.summary(final)}")
    else:
        follow.conclude(federation.output, final)
    return started, final


def _identical(layout: Layout, migration: manager_pb2.Migration, disks: tuple[Path, ...]) -> bool:
    """Whether destination, original and the source's retained copy are the same, byte by byte."""
    arrived, retained = _folders(layout, migration)
    names = [f"{shelf.disk_id(at)}.raw" for at in range(len(disks))]
    return all(
        sparse.first_difference(original, arrived / name) is None
        and sparse.first_difference(original, retained / name) is None
        for original, name in zip(disks, names, strict=True)
    )


def _accounts_agree(federation: Invocation, migration: manager_pb2.Migration) -> bool:
    """Shows what the clouds metered; whether it is what the receipt says, once in each."""
    receipt = common_pb2.Receipt.FromString(migration.receipt.payload)
    records = [
        record
        for cloud_id in (migration.from_cloud, migration.to_cloud)
        for record in federation.clients.manager(cloud_id).usage(vm_id=migration.vm_id)
    ]
    metered = [(one.kind, one.receipt_root, one.raw_bytes, one.wire_bytes) for one in records]
    agree = metered == [
        (kind, receipt.root, receipt.raw_bytes, receipt.wire_bytes)
        for kind in (manager_pb2.USAGE_KIND_LEFT, manager_pb2.USAGE_KIND_ARRIVED)
    ]
    with _step(federation.output, "Accounts") as say:
        say("both clouds metered the same receipt" if agree else "THE ACCOUNTS DIFFER")
    rows = [plain(record) for record in records]
    federation.output.show(*_below(table(rows, views.USAGE_COLUMNS)))
    return agree


def _report(
    layout: Layout,
    started: Started,
    migration: manager_pb2.Migration,
    *,
    identical: bool,
    accounts_agree: bool,
) -> Report:
    receipt = common_pb2.Receipt.FromString(migration.receipt.payload)
    arrived, retained = _folders(layout, migration)
    candidates = (started.placement or {}).get("candidates", [])
    prices = {one["cloud_id"]: one["hourly_price"] for one in candidates}
    seconds = follow.elapsed_seconds(migration)
    return Report(
        vm=migration.vm_name,
        vm_id=migration.vm_id,
        from_cloud=migration.from_cloud,
        to_cloud=migration.to_cloud,
        migration_id=migration.migration_id,
        raw_bytes=receipt.raw_bytes,
        wire_bytes=receipt.wire_bytes,
        seconds=seconds,
        throughput_bytes_per_second=receipt.raw_bytes / max(seconds, 1e-3),
        allocated_source_bytes=_allocated(retained),
        allocated_destination_bytes=_allocated(arrived),
        identical=identical,
        hourly_price=prices.get(migration.to_cloud),
        accounts_agree=accounts_agree,
        receipt_root=receipt.root.hex(),
    )


def _folders(layout: Layout, migration: manager_pb2.Migration) -> tuple[Path, Path]:
    """The machine at the destination, and what the source retains of it."""
    arrived = layout.shelf(migration.to_cloud) / "vms" / migration.vm_id
    return arrived, layout.shelf(migration.from_cloud) / "retained" / migration.migration_id


def _allocated(folder: Path) -> int:
    return sum(map(sparse.allocated_bytes, folder.glob("*.raw")))


def _facts(report: Report) -> list[tuple[str, str]]:
    used = map(
        units.format_bytes, (report.allocated_source_bytes, report.allocated_destination_bytes)
    )
    return [
        ("machine", f"{report.vm}, from {report.from_cloud} to {report.to_cloud}"),
        ("disks", units.format_bytes(report.raw_bytes)),
        ("used", "{} at the source, {} at the destination".format(*used)),
        ("wire", units.format_bytes(report.wire_bytes)),
        ("time", units.format_duration(report.seconds)),
        ("throughput", units.format_rate(report.throughput_bytes_per_second)),
        ("identical", "yes" if report.identical else "no"),
        ("price", f"{views.price(report.hourly_price)} an hour" if report.hourly_price else ""),
        ("receipt", report.receipt_root),
    ]


@contextmanager
def _step(output: Output, title: str) -> Iterator[Callable[[str], None]]:
    """One act: a sign of work while it lasts, a line that tells its outcome after it."""
    told: list[str] = []
    with output.working(title):
        yield told.append
    output.show(Text.assemble((title.ljust(TITLE_COLUMNS), "bold cyan"), " ".join(told)))


def _below(*views_: RenderableType) -> list[Padding]:
    return [Padding(view, (1, 0, 1, 2), expand=False) for view in views_]
