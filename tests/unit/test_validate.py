"""watari.validate: what is accepted, and that a refusal names the field."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import errors, validate


@given(st.uuids())
def test_every_canonical_uuid_is_accepted(value: uuid.UUID) -> None:
    assert validate.require_uuid(str(value), "vm_id") == str(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "web-1",
        "6F9619FF-8B86-4D01-B42D-00C04FC964FF",
        "{6f9619ff-8b86-4d01-b42d-00c04fc964ff}",
        "urn:uuid:6f9619ff-8b86-4d01-b42d-00c04fc964ff",
        "6f9619ff8b864d01b42d00c04fc964ff",
        "6f9619ff-8b86-4d01-b42d-00c04fc964ff\n",
    ],
)
def test_other_spellings_of_a_uuid_are_refused(value: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        validate.require_uuid(value, "vm_id")
    assert caught.value.reason == "INVALID_ID"
    assert caught.value.metadata == {"field": "vm_id"}


@pytest.mark.parametrize("value", ["a", "tokyo", "tokyo-1", "0", "x" * 63])
def test_cloud_ids_are_dns_labels(value: str) -> None:
    assert validate.require_cloud_id(value, "cloud_id") == value


@pytest.mark.parametrize(
    "value", ["", "-", "-a", "a-", "Tokyo", "a.b", "a b", "é", "٣", "x" * 64, "a\n"]
)
def test_what_is_no_dns_label_is_no_cloud_id(value: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        validate.require_cloud_id(value, "key.cloud_id")
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.metadata == {"field": "key.cloud_id"}


@pytest.mark.parametrize("value", ["main", "a", "Ubuntu_24.04-x86", "-", ".", "x" * 128])
def test_names_take_letters_digits_and_three_marks(value: str) -> None:
    assert validate.require_name(value, "name") == value


@pytest.mark.parametrize("value", ["", "a b", "a/b", "ä", "x" * 129, "a\n", "a:b"])
def test_other_characters_are_refused_in_names(value: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD: name: "):
        validate.require_name(value, "name")


@pytest.mark.parametrize(
    "value", ["localhost:80", "10.0.0.1:65535", "[::1]:7000", "[fe80::1%eth0]:1", "a-b.example:9"]
)
def test_addresses_have_a_host_and_a_port(value: str) -> None:
    assert validate.require_address(value, "address") == value


@pytest.mark.parametrize(
    "value",
    ["", "localhost", ":80", "a:0", "a:65536", "a:", "::1:80", "[::1]", "a b:1", "a/b:1", "a:٣"],
)
def test_what_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD: address: "):
        validate.require_address(value, "address")


def test_an_overlong_address_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD: address: "):
        validate.require_address("x" * 300 + ":1", "address")


def test_text_is_measured_in_bytes_of_utf8() -> None:
    assert validate.require_text("é" * 4, "display_name", bytes_max=8) == "é" * 4
    with pytest.raises(errors.InvalidArgument, match="10 bytes are too long"):
        validate.require_text("é" * 5, "display_name", bytes_max=8)


@pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "\x00", "\x7f", "\x9b", "\u202e"])
def test_text_without_control_characters_only(value: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="control character"):
        validate.require_text(value, "display_name", bytes_max=64)


def test_empty_text_is_refused_where_it_says_nothing() -> None:
    assert validate.require_text("", "display_name", bytes_max=8) == ""
    with pytest.raises(errors.InvalidArgument, match="must not be empty"):
        validate.require_text("", "region", bytes_max=8, empty=False)


@pytest.mark.parametrize(("value", "accepted"), [(4, False), (5, True), (9, True), (10, False)])
def test_both_ends_of_a_range_are_included(value: int, accepted: bool) -> None:
    if accepted:
        assert validate.require_range(value, "ttl_seconds", 5, 9) == value
    else:
        with pytest.raises(errors.InvalidArgument) as caught:
            validate.require_range(value, "ttl_seconds", 5, 9)
        assert caught.value.hint == "5 to 9"


def test_a_count_may_reach_its_limit() -> None:
    assert validate.require_count(64, "labels", 64) == 64
    with pytest.raises(errors.InvalidArgument, match="65 entries are too many"):
        validate.require_count(65, "labels", 64)


def test_a_long_refused_value_is_cut_in_the_message() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        validate.require_name("!" * 100_000, "name")
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("limit", [0, 65_536, 1 << 50])
def test_a_bandwidth_cap_is_none_or_fast_enough_to_look_alive(limit: int) -> None:
    assert validate.require_limit(limit, "limit") == limit


@pytest.mark.parametrize("limit", [-1, 1, 65_535, (1 << 50) + 1])
def test_a_bandwidth_cap_out_of_bounds_is_refused(limit: int) -> None:
    with pytest.raises(errors.InvalidArgument):
        validate.require_limit(limit, "limit")
