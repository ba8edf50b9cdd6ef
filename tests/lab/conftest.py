"""Two hosts for all tests, and guests for each: see `tests.lab.link` and `tests.lab.guests`.

For a host to have exactly what a test put there, every test finds the hosts running, without
guests, and the link whole.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import guests, image
from tests.lab.guests import Guest, Spec
from tests.lab.hosts import Host
from tests.lab.image import Image
from tests.lab.link import Lab

MakeGuest = Callable[..., Guest]


@pytest.fixture(scope="session")
def lab_image() -> Image:
    """What guests boot."""
    return image.prepare()


@pytest.fixture(scope="session")
def running_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The hosts of all tests. Tests use `lab`."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def lab(running_lab: Lab) -> Iterator[Lab]:
    """Two hosts and the link between them, as new but for their logs."""
    yield running_lab
    for host in running_lab.hosts:
        host.end_processes()
    running_lab.recover()
    for host in running_lab.hosts:
        guests.remove_all(host)


_numbers = itertools.count(1)


@pytest.fixture
def make_guest(lab: Lab, lab_image: Image, tmp_path: Path) -> MakeGuest:
    """`make_guest(host, disks={"vda": "raw"}, parameters={...})` creates a guest of a name of its
    own that does not run yet; further arguments as of `Spec`.
    """

    def make(host: Host, **chosen: object) -> Guest:
        chosen.setdefault("name", f"guest{next(_numbers)}")
        spec = Spec(**chosen)  # type: ignore[arg-type]
        return Guest(host, lab_image, spec, tmp_path / host.name / spec.name).create()

    return make
