"""The catalogue of a host: real images and indexes, who may use what, and what goes away."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from agent.disks import DiskReader, open_reader
from agent.seeds.builds import BuildLimits
from agent.seeds.catalogue import SEEDS_MAX, Image, SeedCatalogue, SeedLimits
from agent.seeds.fingerprints import Fingerprints
from agent.seeds.scopes import SECRET_FILE, Scopes
from agent.seeds.sources import SeedSources
from tests.support.seed_images import SCOPE, block, image
from watari import errors
from watari.clock import SystemClock

STRANGER = "alpha.example/tenant-2"
NEVER = threading.Event()
WAIT_SECONDS = 30.0
EAGER = SeedLimits(builds=BuildLimits(rest_ratio=0, rebuild_seconds_min=0, retry_seconds_min=0))


@dataclass
class Host:
    """A host whose images a test adds and takes away, and what its catalogue opened."""

    folder: Path
    images: list[Image] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    before_open: Callable[[], None] = lambda: None
    catalogues: list[SeedCatalogue] = field(default_factory=list)

    def add(self, name: str, numbers: range, *, scope: str = SCOPE, public: bool = False) -> Image:
        """A new image."""
        self.images.append(image(self.folder / name, numbers, scope=scope, public=public))
        return self.images[-1]

    def start(self, limits: SeedLimits = EAGER) -> SeedCatalogue:
        """The catalogue, as after a start of the agent."""
        scopes = Scopes(self.folder / "scopes")
        made = SeedCatalogue(
            self.indexes_folder, scopes, lambda: self.images, self.open, SystemClock(), limits
        )
        self.catalogues.append(made)
        return made

    def open(self, path: Path, disk_format: str) -> DiskReader:
        """Opens a disk and remembers it."""
        self.before_open()
        self.opened.append(path.name)
        return open_reader(path, disk_format)

    @property
    def indexes_folder(self) -> Path:
        """Where the catalogue keeps its files."""
        return self.folder / "indexes"

    def indexes(self) -> list[Path]:
        """The files in it."""
        return sorted(self.indexes_folder.iterdir())

    def ask(self, sources: SeedSources, scope: str, numbers: range) -> list[bytes | None]:
        """Asks a view for the blocks of these numbers."""
        prints = Fingerprints(Scopes(self.folder / "scopes").digest_key(scope))
        return sources.blocks([prints.of(block(each))[0] for each in numbers])

    def found(self, catalogue: SeedCatalogue, numbers: range, scope: str = SCOPE) -> set[int]:
        """Which of these numbers a session of the scope finds."""
        with catalogue.sources(scope, WAIT_SECONDS) as sources:
            blocks = self.ask(sources, scope, numbers)
        assert all(
            each in (None, block(number)) for number, each in zip(numbers, blocks, strict=True)
        )
        return {number for number, each in zip(numbers, blocks, strict=True) if each is not None}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host without images."""
    made = Host(tmp_path)
    yield made
    for each in made.catalogues:
        each.close()


def test_a_tenant_finds_what_its_images_hold(host: Host) -> None:
    host.add("one", range(1, 101))
    host.add("two", range(51, 201))
    catalogue = host.start()
    assert catalogue.has(SCOPE)
    assert host.found(catalogue, range(1, 301)) == set(range(1, 201))


def test_a_tenant_finds_nothing_of_another_and_no_index_is_made_for_it(host: Host) -> None:
    host.add("one", range(1, 101))
    catalogue = host.start()
    assert not catalogue.has(STRANGER)
    assert host.found(catalogue, range(1, 101), STRANGER) == set()
    assert host.indexes() == []
    catalogue.refresh(NEVER)
    assert host.found(catalogue, range(1, 101), STRANGER) == set()


def test_the_index_of_one_tenant_is_of_no_use_under_the_name_of_another(host: Host) -> None:
    host.add("one", range(1, 101))
    host.start().refresh(NEVER)
    [stolen] = host.indexes()
    content = stolen.read_bytes()
    host.images = [image(host.folder / "one", range(1, 101), scope=STRANGER)]
    other = host.start()
    other.refresh(NEVER)
    [index] = host.indexes()
    assert index != stolen
    index.write_bytes(content)
    with other.sources(STRANGER, 0) as sources:
        assert len(sources) == 0
    assert not index.exists() or index.read_bytes() != content


def test_public_images_are_indexed_for_each_scope_that_asks_and_no_sooner(host: Host) -> None:
    host.add("base", range(1, 101), scope="public", public=True)
    catalogue = host.start()
    catalogue.refresh(NEVER)
    assert host.indexes() == []
    assert catalogue.has(SCOPE)
    assert catalogue.has(STRANGER)
    for scope in (SCOPE, STRANGER, SCOPE):
        assert host.found(catalogue, range(1, 101), scope) == set(range(1, 101))
    assert len(host.indexes()) == 2
    catalogue.refresh(NEVER)
    assert len(host.indexes()) == 2


def test_a_scope_that_does_not_ask_any_more_loses_its_index_of_a_public_image(host: Host) -> None:
    host.add("base", range(1, 101), scope="public", public=True)
    host.add("own", range(200, 210))
    catalogue = host.start()
    assert host.found(catalogue, range(1, 2)) == {1}
    catalogue.refresh(NEVER)
    assert len(host.indexes()) == 2
    for each in host.indexes():
        os.utime(each, (0, 0))
    assert host.found(catalogue, range(1, 2)) == {1}
    catalogue.refresh(NEVER)
    assert len(host.indexes()) == 2
    for each in host.indexes():
        os.utime(each, (0, 0))
    catalogue.refresh(NEVER)
    assert len(host.indexes()) == 1
    assert host.found(catalogue, range(200, 210)) == set(range(200, 210))


def test_refreshing_makes_everything_ready_and_then_reads_nothing(host: Host) -> None:
    for number in range(3):
        host.add(f"disk{number}", range(100 * number + 1, 100 * number + 51))
    catalogue = host.start()
    catalogue.refresh(NEVER)
    assert sorted(host.opened) == ["disk0", "disk1", "disk2"]
    catalogue.refresh(NEVER)
    host.start().refresh(NEVER)
    assert len(host.opened) == 3
    with catalogue.sources(SCOPE, 0) as sources:
        assert len(sources) == 3


def test_an_image_that_changed_is_indexed_again(host: Host) -> None:
    disk = host.add("disk", range(1, 51))
    catalogue = host.start()
    catalogue.refresh(NEVER)
    image(disk.path, range(41, 91))
    with catalogue.sources(SCOPE, 0) as sources:
        assert len(sources) <= 1
    assert host.found(catalogue, range(1, 101)) == set(range(41, 91))
    assert len(host.indexes()) == 1


def test_an_image_that_moved_with_its_folder_keeps_its_index(host: Host) -> None:
    (host.folder / "shelf").mkdir()
    disk = host.add("shelf/disk", range(1, 51))
    catalogue = host.start()
    catalogue.refresh(NEVER)
    (host.folder / "shelf").rename(host.folder / "retained")
    host.images = [Image(host.folder / "retained" / "disk", disk.format, disk.scope, disk.image_id)]
    host.opened.clear()
    with catalogue.sources(SCOPE, 0) as sources:
        assert len(sources) == 1
        assert host.ask(sources, SCOPE, range(1, 3)) == [block(1), block(2)]
    assert host.opened == ["disk"]


def test_indexes_of_images_that_are_gone_are_deleted(host: Host) -> None:
    host.add("stays", range(1, 11))
    host.add("goes", range(11, 21))
    host.add("base", range(21, 31), public=True)
    catalogue = host.start()
    assert host.found(catalogue, range(1, 31)) == set(range(1, 31))
    catalogue.refresh(NEVER)
    assert len(host.indexes()) == 3
    host.images = [host.images[0]]
    catalogue.refresh(NEVER)
    assert len(host.indexes()) == 1
    assert host.found(catalogue, range(1, 31)) == set(range(1, 11))


def test_deleting_the_indexes_costs_a_build_and_nothing_else(host: Host) -> None:
    host.add("disk", range(1, 51))
    catalogue = host.start()
    for _ in range(2):
        assert host.found(catalogue, range(1, 51)) == set(range(1, 51))
        for each in host.indexes():
            each.unlink()


@pytest.mark.parametrize("damage", [b"", b"x" * 100_000])
def test_a_damaged_index_is_built_again(host: Host, damage: bytes) -> None:
    host.add("disk", range(1, 51))
    catalogue = host.start()
    catalogue.refresh(NEVER)
    host.indexes()[0].write_bytes(damage)
    assert host.found(catalogue, range(1, 51)) == set(range(1, 51))


def test_a_new_secret_makes_every_index_new(host: Host) -> None:
    host.add("disk", range(1, 51))
    host.start().refresh(NEVER)
    (host.folder / "scopes" / SECRET_FILE).unlink()
    assert host.found(host.start(), range(1, 51)) == set(range(1, 51))
    assert host.opened.count("disk") == 3  # two builds and one session


def test_folder_and_files_are_private_and_what_a_crash_left_is_cleaned_up(host: Host) -> None:
    host.add("disk", range(1, 51))
    host.start().refresh(NEVER)
    assert stat.S_IMODE(host.indexes_folder.stat().st_mode) == 0o700
    [index] = host.indexes()
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    index.with_name(f".{index.name}.partial").write_bytes(b"half")
    host.start()
    assert host.indexes() == [index]


def test_a_view_takes_the_newest_images_and_no_more_than_its_limit(host: Host) -> None:
    for number in range(SEEDS_MAX + 2):
        disk = host.add(f"disk{number}", range(number + 1, number + 2))
        os.utime(disk.path, (1000 + number, 1000 + number))
    assert host.found(host.start(), range(1, 20)) == set(range(3, SEEDS_MAX + 3))


def test_a_session_goes_on_without_what_is_not_ready_in_time(host: Host) -> None:
    release = threading.Event()
    host.add("ready", range(1, 11))
    catalogue = host.start()
    catalogue.refresh(NEVER)
    host.add("slow", range(11, 21))

    def until_released() -> None:
        if threading.current_thread().name == "seed-builds":
            assert release.wait(WAIT_SECONDS)

    host.before_open = until_released
    with catalogue.sources(SCOPE, 0.05) as sources:
        assert len(sources) == 1
        assert host.ask(sources, SCOPE, range(10, 12)) == [block(10), None]
    release.set()
    assert host.found(catalogue, range(1, 21)) == set(range(1, 21))


def test_an_image_that_cannot_be_read_leaves_the_others_usable(host: Host) -> None:
    host.add("good", range(1, 11))
    host.images.append(Image(host.folder / "missing", "raw", SCOPE, "missing"))
    host.images.append(image(host.folder / "odd", range(11, 21)))
    host.images[-1] = Image(host.folder / "odd", "unheard-of", SCOPE, "odd")
    catalogue = host.start()
    assert host.found(catalogue, range(1, 21)) == set(range(1, 11))
    catalogue.refresh(NEVER)
    assert len(host.indexes()) == 1


def test_an_image_of_nobody_is_of_use_to_nobody(host: Host) -> None:
    host.add("orphan", range(1, 11), scope="")
    host.add("owned", range(11, 21))
    catalogue = host.start()
    catalogue.refresh(NEVER)
    assert host.found(catalogue, range(1, 21)) == set(range(11, 21))
    assert len(host.indexes()) == 1


def test_images_that_cannot_be_listed_are_no_images_to_a_session(tmp_path: Path) -> None:
    def fail() -> list[Image]:
        raise errors.DataLoss("DISK_IO", "the shelf is gone")

    catalogue = SeedCatalogue(
        tmp_path / "indexes", Scopes(tmp_path), fail, open_reader, SystemClock()
    )
    assert not catalogue.has(SCOPE)
    with catalogue.sources(SCOPE, 0) as sources:
        assert len(sources) == 0
    catalogue.close()


def test_stopping_ends_a_refresh_between_two_chunks(host: Host) -> None:
    stopping = threading.Event()
    host.add("one", range(1, 51))
    host.add("two", range(51, 101))
    host.before_open = stopping.set
    host.start().refresh(stopping)
    assert len(host.opened) == 1
    assert host.indexes() == []


def test_sessions_and_refreshes_at_once_all_find_everything(host: Host) -> None:
    for number in range(4):
        host.add(f"disk{number}", range(100 * number + 1, 100 * number + 101))
    catalogue = host.start()
    results: list[set[int]] = []
    threads = [
        threading.Thread(target=lambda: results.append(host.found(catalogue, range(1, 401))))
        for _ in range(4)
    ]
    threads.append(threading.Thread(target=catalogue.refresh, args=(NEVER,)))
    for each in threads:
        each.start()
    for each in threads:
        each.join(WAIT_SECONDS)
    assert results == [set(range(1, 401))] * 4
    assert len(host.indexes()) == 4


def test_closed_views_and_catalogues_leave_no_file_open(host: Host) -> None:
    process = psutil.Process()
    host.add("disk", range(1, 51))
    before = process.num_fds()
    catalogue = host.start()
    for _ in range(3):
        assert host.found(catalogue, range(1, 51)) == set(range(1, 51))
        catalogue.refresh(NEVER)
    catalogue.close()
    assert process.num_fds() == before
