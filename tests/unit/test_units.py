import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import errors, units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("4GiB", 4 * 1024**3),
        ("4 gib", 4 * 1024**3),
        ("4Gi", 4 * 1024**3),
        ("50M", 50_000_000),
        ("50MB", 50_000_000),
        ("1.5 KiB", 1536),
        ("0.001k", 1),
        ("12B", 12),
        ("8191PiB", 8191 * 1024**5),
    ],
)
def test_sizes_are_read_with_decimal_and_binary_suffixes(text, size):
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "4GiBs", "1e3", "1.0001KiB", "8EiB", "4 4", "٤", "1" * 65, "1_0"]
)
def test_what_is_not_a_size_is_refused(text):
    with pytest.raises(errors.InvalidArgument) as caught:
        units.parse_bytes(text)
    assert caught.value.reason == "INVALID_QUANTITY"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604800), ("500ms", 0.5), ("1h30m", 5400),
     ("1 h 02 min", 3720), ("90", 90), ("0.5", 0.5)],
)  # fmt: skip
def test_durations_are_read_with_units(text, seconds):
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "s", "-5s", "5x", "5s5", "1h-2m", "nan", "9" * 65])
def test_what_is_not_a_duration_is_refused(text):
    with pytest.raises(errors.InvalidArgument, match="INVALID_QUANTITY"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (-1536, "-1.5 KiB"),
        (2**63 - 1, "8.0 EiB"),
    ],
)
def test_sizes_are_written_in_the_largest_fitting_unit(size, text):
    assert units.format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.25, "250 ms"),
        (0.9999, "1.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (307, "5 min 07 s"),
        (3599.6, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (86399, "1 d 00 h"),
        (3 * 86400 + 4 * 3600, "3 d 04 h"),
        (-90, "-1 min 30 s"),
    ],
)
def test_durations_are_written_for_people(seconds, text):
    assert units.format_duration(seconds) == text


def test_rates_are_sizes_a_second():
    assert units.format_rate(12.5 * 1024**2) == "12.5 MiB/s"


@given(st.integers(0, units.BYTES_MAX))
def test_a_bare_number_of_bytes_is_read_exactly(size):
    assert units.parse_bytes(str(size)) == size


@given(st.integers(1, units.BYTES_MAX))
def test_a_written_size_is_within_its_rounding_of_the_size(size):
    number, unit = units.format_bytes(size).split()
    assert 1 <= float(number) < 1024
    assert float(number) * units.parse_bytes(f"1{unit}") == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize(("text", "rate"), [("50M/s", 50_000_000), ("1MiB", 1 << 20), ("0", 0)])
def test_rates_are_read_as_sizes_a_second(text: str, rate: int) -> None:
    assert units.parse_rate(text) == rate
