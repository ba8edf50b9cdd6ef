"""The least time that a move can take. Pure."""

ROUND_TRIPS = 2
"""A connection and an answer: less cannot be."""


def seconds(compressed_bytes: int, bytes_per_second: float, round_trip_seconds: float) -> float:
    """The compressed image at the link's rate or goodput, and two round trips."""
    return compressed_bytes / bytes_per_second + ROUND_TRIPS * round_trip_seconds
