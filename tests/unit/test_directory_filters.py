"""directory.filters and directory.fields: the language of filters."""

import operator
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directory import fields, filters
from tests.support.directory_samples import capacity, cloud, key, offer
from watari import errors
from watari.v1 import common_pb2, directory_pb2

DOCUMENT = Path(__file__).parents[2] / "docs" / "directory.md"
LINK = directory_pb2.Record(
    key=key(directory_pb2.RECORD_KIND_LINK, name="to-osaka"),
    link=directory_pb2.Link(
        to_cloud_id="osaka",
        rtt_ms=19.5,
        throughput_bytes_per_second=50_000_000,
        price_gib=common_pb2.Money(currency_code="JPY", units=1),
    ),
)
IMAGE = directory_pb2.Record(
    key=key(directory_pb2.RECORD_KIND_IMAGE, name="ubuntu"),
    image=directory_pb2.ImageSummary(
        display_name="Ubuntu 24.04 LTS", size_bytes=4 * 2**30, allocated_bytes=10**9, format="raw"
    ),
)
HOST = directory_pb2.Record(
    key=key(directory_pb2.RECORD_KIND_HOST, name="h1"),
    host=directory_pb2.HostSummary(
        region="jp-east", traits=["avx512"], largest_fit=common_pb2.Resources(vcpus=4)
    ),
)
EVERY_KIND = [cloud(), HOST, offer(), capacity(), IMAGE, LINK]


def matches(expression: str, record: directory_pb2.Record) -> bool:
    return filters.parse(expression).matches(record)


@pytest.mark.parametrize(
    ("expression", "record", "expected"),
    [
        ("", cloud(), True),
        (" \n ", cloud(), True),
        ("kind = CLOUD", cloud(), True),
        ("kind = cloud", cloud(), True),
        ("kind != CLOUD", cloud(), False),
        ("cloud = tokyo AND name = main", cloud(), True),
        ("provider = tokyo.example", cloud(), True),
        ("jurisdiction = JP", cloud(), True),
        ("regions:jp-west", cloud(), True),
        ("regions : jp", cloud(), False),
        ('capabilities:"mode:cold"', cloud(), True),
        ("capabilities:'mode:warm'", cloud(), False),
        ("taints:draining", cloud(), True),
        ("display_name = 'Tokyo Cloud'", cloud(), True),
        ("labels.tier = gold", cloud(), True),
        ('labels.tier != "gold"', cloud(), False),
        ('labels.colour != "red"', cloud(), True),
        ("labels.colour = red", cloud(), False),
        ("labels:tier", cloud(), True),
        ("labels:colour", cloud(), False),
        ('labels."tier" = gold', cloud(), True),
        ("scores.reliability = 0.9", cloud(), True),
        ("scores.reliability > 0.9", cloud(), False),
        ("scores.speed < 1", cloud(), False),
        ("scores:reliability", cloud(), True),
        ("stale = false", cloud(), True),
        ("stale = true", cloud(), False),
        ('region = "jp-east" AND free.vcpus >= 4 AND labels.tier != "spot"', capacity(), True),
        ("free.vcpus>=8", capacity(), True),
        ("free.vcpus>8", capacity(), False),
        ("free.vcpus < 8.5", capacity(), True),
        ("free.vcpus != 8", capacity(), False),
        ("free.memory_bytes >= 4GiB", capacity(), True),
        ("free.memory_bytes > 4GiB", capacity(), False),
        ("free.memory_bytes = 4294967296", capacity(), True),
        ("free.disk_bytes >= 0.5TiB", capacity(), False),
        ("free.other.gpu = 2", capacity(), True),
        ("free.other.fpga = 0", capacity(), False),
        ("total.vcpus = 64", capacity(), True),
        ("largest_fit.vcpus >= 0", capacity(), False),
        ("largest_fit.vcpus = 4", HOST, True),
        ("trait:avx512 AND traits:avx512", HOST, True),
        ("traits:ssd", offer(), True),
        ("prices.vcpu_hour <= 4.5", offer(), True),
        ("prices.vcpu_hour < 4.500000001", offer(), True),
        ("prices.vcpu_hour < 4.5", offer(), False),
        ("prices.egress_gib = 0", offer(), True),
        ("prices.migration_flat >= 0", offer(), False),
        ("prices.currency = JPY", offer(), True),
        ("vm_max.vcpus > 0", offer(), False),
        ("rtt_ms < 20 AND to_cloud = osaka", LINK, True),
        ("rtt_ms > -1", LINK, True),
        ("throughput_bytes_per_second >= 50M", LINK, True),
        ("price_gib = 1", LINK, True),
        ("format = raw AND size_bytes = 4GiB AND allocated_bytes < 1GiB", IMAGE, True),
        ('display_name = "Ubuntu 24.04 LTS"', IMAGE, True),
    ],
)
def test_an_expression_means_what_the_document_says(
    expression: str, record: directory_pb2.Record, expected: bool
) -> None:
    assert matches(expression, record) is expected


@pytest.mark.parametrize("name", [*fields.FIELDS, "labels.x", "scores.x", "free.other.x"])
def test_a_record_without_the_field_satisfies_only_unequal(name: str) -> None:
    field = fields.find(name)
    assert field is not None
    value = {"boolean": "true", "kind": "LINK"}.get(field.type.value, "1")
    for record in EVERY_KIND:
        if field.read(record) is not None:
            continue
        for sign in filters.OPERATORS[field.type]:
            assert matches(f"{name} {sign} {value}", record) is (sign == "!="), (name, sign)


@pytest.mark.parametrize("name", fields.FIELDS)
def test_every_field_is_there_in_some_record(name: str) -> None:
    everything = offer()
    everything.offer.vm_max.vcpus = 1
    for price in ("memory_gib_hour", "disk_gib_month", "migration_flat"):
        getattr(everything.offer.prices, price).currency_code = "JPY"
    found = [fields.FIELDS[name].read(record) for record in [*EVERY_KIND, everything]]
    assert any(value not in {None, ()} for value in found)


@pytest.mark.parametrize(
    ("expression", "position"),
    [
        ("regio = a", 0),
        ("cloud = a AND  regio = a", 15),
        ("labels. = a", 0),
        ("free.other. = 1", 0),
        ("color.tier = a", 0),
        ("region", 6),
        ("region jp", 7),
        ("region < a", 7),
        ("region : a", 7),
        ("regions = a", 8),
        ("stale > true", 6),
        ("stale = yes", 8),
        ("kind = VM", 7),
        ("kind = UNSPECIFIED", 7),
        ("region =", 8),
        ("region = AND", 9),
        ("region = OR AND cloud = a", 9),
        ("region = = a", 9),
        ("free.vcpus >= four", 14),
        ("free.vcpus >= 4GiB", 14),
        ("free.vcpus >= 1e9", 14),
        ("free.vcpus >= 1_000", 14),
        ("free.vcpus >= .", 14),
        ("free.memory_bytes >= 4 GiB", 23),
        ("free.memory_bytes >= 4GG", 21),
        ("region = a OR region = b", 11),
        ("region = a and region = b", 11),
        ("region = a region = b", 11),
        ("NOT region = a", 0),
        ("(region = a)", 0),
        ("AND region = a", 0),
        ("region = a AND", 14),
        ("region = 'a", 9),
        ("region = a ; name = b", 11),
        ("'region' = a", 0),
        ("= a", 0),
        (f"region = {'x' * 4088}", 0),
        (" AND ".join(["cloud=a"] * 65), 64 * 12),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_position(expression: str, position: int) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        filters.parse(expression)
    assert caught.value.reason == "FILTER_INVALID"
    assert caught.value.metadata["position"] == str(position)
    assert caught.value.hint
    assert len(caught.value.message) < 150


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        filters.parse("memory > 4GiB")
    for name in ("free.memory_bytes", "labels.<name>", "prices.vcpu_hour"):
        assert name in caught.value.hint


def assert_read_or_refused(text: str) -> None:
    try:
        parsed = filters.parse(text)
    except errors.InvalidArgument as refusal:
        outcome = refusal.reason, 0 <= int(refusal.metadata["position"]) <= len(text)
    else:
        outcome = "READ", all(parsed.matches(each) in {True, False} for each in EVERY_KIND)
    assert outcome in {("READ", True), ("FILTER_INVALID", True)}


@given(st.text(max_size=200))
def test_any_text_is_either_a_filter_or_refused(text: str) -> None:
    assert_read_or_refused(text)


WORDS = ["cloud", "free.vcpus", "AND", "=", ">=", ":", "4", "4GiB", "'a b'", "labels.x", "stale"]


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_any_row_of_words_is_either_a_filter_or_refused(words: list[str]) -> None:
    assert_read_or_refused(" ".join(words))


@given(
    name=st.text(min_size=1, max_size=20), value=st.text(max_size=20), other=st.text(max_size=20)
)
def test_any_label_can_be_asked_for_in_quotes(name: str, value: str, other: str) -> None:
    record = directory_pb2.Record(labels={name: value})
    assert matches(f"labels.{quoted(name)} = {quoted(value)}", record)
    assert matches(f"labels.{quoted(name)} = {quoted(other)}", record) is (other == value)
    assert matches(f"labels:{quoted(name)}", record)


def quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


NUMBERS = st.decimals(-(10**6), 10**6, places=3)
ORDER: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@given(st.lists(st.tuples(st.sampled_from(list(ORDER)), NUMBERS), min_size=1, max_size=5), NUMBERS)
def test_comparisons_agree_with_arithmetic_and_all_must_hold(
    comparisons: list[tuple[str, Decimal]], price: Decimal
) -> None:
    record = offer()
    units = int(price)
    record.offer.prices.vcpu_hour.units = units
    record.offer.prices.vcpu_hour.nanos = int((price - units) * 10**9)
    expression = " AND ".join(f"prices.vcpu_hour {sign} {value:f}" for sign, value in comparisons)
    expected = all(ORDER[sign](price, value) for sign, value in comparisons)
    assert matches(expression, record) is expected


def test_the_document_lists_every_field() -> None:
    text = DOCUMENT.read_text()
    for name in fields.known():
        assert f"`{name}`" in text, name
    for name in re.findall(r"^\| `([a-z_.<>]+)`", text.partition("## Filters")[2], re.MULTILINE):
        assert name in fields.known(), name
