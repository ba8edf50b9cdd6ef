"""A whole image to a host that has nothing of it: the paper's experiment, and one with losses."""

from collections.abc import Sequence
from functools import partial

from bench import floor
from bench.methods.result import Result
from bench.rows.context import (
    METHODS,
    PEERS,
    Context,
    Line,
    Measured,
    Row,
    Run,
    all_identical,
    median_rate,
    median_seconds,
)

ROUND_TRIPS_MS = (0, 20, 60, 120, 200)
QUICK_MS = (0, 20, 120)
TARGETS = {100: "at most 1.15 x floor", 1000: "a quarter of zstd | ssh"}
LOSSY_BYTES = 256 << 20
LOSSY_TARGET = "at least 85 % of the link"


def rows() -> list[Row]:
    """100 Mbit/s at every round trip, 1 Gbit/s at the longest, and a lossy link."""
    found = [_row(100, rtt, tuple(PEERS), quick=rtt in QUICK_MS) for rtt in ROUND_TRIPS_MS]
    return [*found, _row(1000, 200, ("watari", "zstd_ssh"), quick=False), _lossy(100, 120, 0.001)]


def _row(rate_mbit: float, rtt_ms: float, names: Sequence[str], *, quick: bool) -> Row:
    runs: dict[str, Run] = {"goodput": partial(_goodput, (rate_mbit, rtt_ms, 0.0))}
    runs |= {name: partial(_root, (rate_mbit, rtt_ms, 0.0), name) for name in names}
    lines = partial(_lines, (rate_mbit, rtt_ms, 0.0))
    title = f"root image, {rate_mbit:g} Mbit/s, RTT {rtt_ms:g} ms"
    return Row(f"cold-{rate_mbit:g}m-{rtt_ms:g}ms", title, runs, lines, quick)


def _lossy(rate_mbit: float, rtt_ms: float, loss: float) -> Row:
    like = (rate_mbit, rtt_ms, loss)
    title = f"256 MiB incompressible, {rate_mbit:g} Mbit/s, RTT {rtt_ms:g} ms, loss {loss:.1%}"
    runs = {"goodput": partial(_goodput, like), "watari": partial(_random, like)}
    return Row("loss", title, runs, partial(_shares, like))


def _goodput(like: tuple[float, float, float], context: Context) -> Result:
    return context.goodput(context.shape(*like))


def _root(like: tuple[float, float, float], name: str, context: Context) -> Result:
    return context.over(context.shape(*like), METHODS[name], context.cache.root())


def _random(like: tuple[float, float, float], context: Context) -> Result:
    image = context.cache.random(LOSSY_BYTES)
    return context.over(context.shape(*like), METHODS["watari"], image)


def _lines(
    like: tuple[float, float, float], context: Context, measured: Measured
) -> Sequence[Line]:
    rate = median_rate(measured["goodput"])
    compressed = context.cache.compressed_bytes(context.cache.root())
    least = floor.seconds(compressed, rate, context.shape(*like).round_trip_seconds)
    lines = [Line("floor", f"{least:.2f} s (goodput {rate * 8 / 1e6:.1f} Mbit/s)", 1.0)]
    for name, results in measured.items():
        if name == "goodput":
            continue
        seconds = median_seconds(results)
        target = TARGETS.get(int(like[0]), "") if name == "watari" else ""
        whole = all_identical(results)
        lines.append(Line(name, f"{seconds:.2f} s", seconds / least, target, whole))
    return lines


def _shares(
    like: tuple[float, float, float], context: Context, measured: Measured
) -> Sequence[Line]:
    rate_bytes = context.shape(*like).rate_bits / 8
    one = median_rate(measured["goodput"]) / rate_bytes
    results = measured["watari"]
    seconds = median_seconds(results)
    share = LOSSY_BYTES / seconds / rate_bytes
    text = f"{share:.1%} of the link ({seconds:.2f} s)"
    return [
        Line("one TCP connection", f"{one:.1%} of the link"),
        Line("watari", text, 1 / share, LOSSY_TARGET, all_identical(results)),
    ]
