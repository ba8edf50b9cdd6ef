"""The file of `watari place-batch`: what it says, and what is refused."""

import tomllib

import pytest

from watari import errors
from watari.cli import batch_file, place_batch
from watari.cli.output import Format, Output
from watari.v1 import broker_pb2

FILE = """
solver = "stable"
limit = "7s"
horizon = "30d"
prefer = ["jp-east"]
weights = { price = 1 }

[group.web]
affinity = "region"
per-cloud-max = 2
memory = "4GiB"
jurisdictions = ["JP"]
labels = { tier = "gold" }

[[machine]]
name = "web"
group = "web"
count = 3
vcpus = 2
current-cloud = "tokyo"
move-cost = "0.5 EUR"
rtt-max = "80ms"
"""


def test_a_machine_says_what_its_group_does_not() -> None:
    request = batch_file.request(tomllib.loads(FILE))
    assert request.solver == broker_pb2.BATCH_SOLVER_STABLE
    assert (request.limit_seconds, request.horizon_hours) == (7, 720)
    assert request.groups[0].affinity == broker_pb2.BATCH_AFFINITY_REGION
    assert request.groups[0].per_cloud_max == 2
    machine = request.machines[0]
    assert (machine.count, machine.current_cloud) == (3, "tokyo")
    assert machine.requirements.resources.vcpus == 2
    assert machine.requirements.resources.memory_bytes == 4 * 1024**3
    assert machine.requirements.jurisdictions == ["JP"]
    assert machine.requirements.labels == {"tier": "gold"}
    assert machine.requirements.rtt_ms_max == 80


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("speed = 1", "speed"),
        ("solver = 'simplex'", "simplex"),
        ("[[machine]]\nvcpus = 1", "name"),
        ("[[machine]]\nname = 'a'\ngroup = 'b'", "group.b"),
        ("[[machine]]\nname = 'a'\nvcpus = true", "vcpus"),
        ("[[machine]]\nname = 'a'\nvcpu = 1", "vcpu"),
        ("[[machine]]\nname = 'a'\nmemory = 4", "memory"),
        ("[[machine]]\nname = 'a'\nclouds = [1]", "clouds"),
        ("[[machine]]\nname = 'a'\nweight = 'much'", "weight"),
        ("[group.a]\naffinity = 'planet'", "planet"),
        ("group = 1", "group"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=named):
        batch_file.request(tomllib.loads(text))


def test_a_batch_is_shown_with_who_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    price = {"amount": "0.06", "currency": "EUR"}
    candidate = {"cloud_id": "osaka", "region": "r", "hourly_price": price, "score": 0.5}
    placed = {"machine": "a", "candidate": candidate, "stays": True, "unplaced": ""}
    left = {"machine": "b", "candidate": None, "unplaced": "room", "rejections": []}
    answer = {"placements": [placed, left], "cost": 43.2, "currency": "EUR", "gap": 0.0123}
    answer |= {"wall_seconds": 1.0, "blocking_pairs": 0, "rank_sum": 7}
    Output(Format.TABLE).show(*place_batch.shown(answer, stable=True))
    text = capsys.readouterr().out
    for words in ("stays in", "osaka", "every cloud that would take it is full", "1 of 2", "1.23%"):
        assert words in text
