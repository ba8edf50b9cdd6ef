"""How a cloud's price moves: four kinds, each after something that is documented. Pure.

Of what a kind's source says, the times between changes and the shape are taken; where it gives no
size, the size is an assumption and stands beside it. A deep spot discount is taken from none of
them: it is the price of being stopped at any time, and nobody is stopped here.
"""

import math
from enum import StrEnum
from random import Random

DAY_HOURS = 24


class Kind(StrEnum):
    """A way of setting prices."""

    LIST = "list"
    """Lists, as on-demand prices: they stand for months."""
    MONTHLY = "monthly"
    """"Spot prices can change up to once every 30 days" (Google Compute Engine, Spot VMs)."""
    GRADUAL = "gradual"
    """"Prices adjust gradually based on long-term trends" (Amazon EC2 Spot since late 2017)."""
    AUCTION = "auction"
    """Amazon EC2 Spot until 2017: at random within a band, by an autoregressive process, with peaks
    above it some hours in a hundred (Agmon Ben-Yehuda et al., Deconstructing Amazon EC2 Spot
    Instance Pricing), and an hour of the day that shows (Javadi et al., Characterizing Spot Price
    Dynamics in Public Cloud Environments)."""
    FLAT = "flat"
    """Nothing ever changes."""


SPREAD = 0.15
"""Standard deviation of the logarithm of what clouds ask at the beginning: one provider's own
regions, for the same type of machine, ask 0.85 to 1.6 times the first one's price."""

LIST_HOURS, LIST_STEP = 180 * DAY_HOURS, 0.1
"""Mean time between changes, and the spread of what follows; both assumed."""

MONTH_HOURS, MONTH_STEP = 30 * DAY_HOURS, 0.2
"""The size is assumed."""

GRADUAL_HOURS, GRADUAL_SPREAD = 10 * DAY_HOURS, 0.15
"""Time constant of the way back to the mean, and standard deviation; both assumed."""

BAND_KEEP, BAND_NOISE = 0.9, 0.02
"""Of a deviation an hour later, and what each hour adds: a band some 0.2 wide."""

SPIKE_HOURS, SPIKE_LASTS = 150, 5
"""Mean time between peaks, and mean length: 3 % of the time."""

SPIKE_HEIGHT = (0.3, 1.0)
"""Of the logarithm: 1.35 to 2.7 times."""

DAY_HEIGHT = 0.12
"""The most that the hour of the day makes up or down."""

EPOCH_HOURS, EPOCH_STEP = 60 * DAY_HOURS, 0.2
"""Mean time between moves of the whole band; assumed."""


def levels(random: Random, kind: Kind, hours: int) -> tuple[float, ...]:
    """The price by hour, of the reference machine's."""
    base = math.exp(random.gauss(0, SPREAD))
    logs = {
        Kind.LIST: lambda: _stepped(random, hours, 1 / LIST_HOURS, LIST_STEP),
        Kind.MONTHLY: lambda: _monthly(random, hours),
        Kind.GRADUAL: lambda: _gradual(random, hours),
        Kind.AUCTION: lambda: _auction(random, hours),
        Kind.FLAT: lambda: [0.0] * hours,
    }[kind]()
    # Price sheets have so many digits.
    return tuple(round(base * math.exp(log), 4) for log in logs)


def _stepped(random: Random, hours: int, chance: float, step: float) -> list[float]:
    found, now = [], 0.0
    for _ in range(hours):
        if random.random() < chance:
            now = random.gauss(0, step)
        found.append(now)
    return found


def _monthly(random: Random, hours: int) -> list[float]:
    first = random.randrange(MONTH_HOURS)
    found, now = [], 0.0
    for hour in range(hours):
        if hour % MONTH_HOURS == first:
            now = random.gauss(0, MONTH_STEP)
        found.append(now)
    return found


def _gradual(random: Random, hours: int) -> list[float]:
    keep = math.exp(-1 / GRADUAL_HOURS)
    noise = GRADUAL_SPREAD * math.sqrt(1 - keep * keep)
    found, now = [], random.gauss(0, GRADUAL_SPREAD)
    for _ in range(hours):
        now = keep * now + random.gauss(0, noise)
        found.append(now)
    return found


def _auction(random: Random, hours: int) -> list[float]:
    epochs = _stepped(random, hours, 1 / EPOCH_HOURS, EPOCH_STEP)
    height, phase = random.uniform(0, DAY_HEIGHT), random.uniform(0, DAY_HOURS)
    found, band, spike = [], 0.0, 0.0
    for hour in range(hours):
        band = BAND_KEEP * band + random.gauss(0, BAND_NOISE)
        if random.random() < 1 / SPIKE_HOURS:
            spike = random.uniform(*SPIKE_HEIGHT)
        elif random.random() < 1 / SPIKE_LASTS:
            spike = 0.0
        day = height * math.sin(2 * math.pi * (hour - phase) / DAY_HOURS)
        found.append(epochs[hour] + band + spike + day)
    return found
