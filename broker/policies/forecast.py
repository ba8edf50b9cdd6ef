"""What a cloud's prices will be on average, from its recent history, and how far that is off. Pure.

The series is watched once an hour; between two looks a price stands, as price sheets do. It is
taken for an autoregressive process of order one around a mean, all three exponentially weighted:

    x[t+k] = m + phi^k (x[t] - m) + noise,   0 <= phi < 1

so that a spike is expected to pass (small phi) and a new regime to stay (phi near 1). The doubt
has two parts: noise to come, and a mean that is not known well from a short, sticky history.

A second model takes off an average by hour of the day first. It is used only while its one-step
errors are smaller, by `SEASON_GAIN` at least: a season that does not pay is noise.
"""

import math
from dataclasses import dataclass, field, replace

from broker.policies.model import HOUR, Outlook

HALF_LIFE_HOURS = 72.0
"""A look counts half after as long: three days tell a regime from a spike."""

GAP_HOURS_MAX = 24 * 7
"""Hours without a look that are filled with the last price; what is older starts anew."""

LOOKS_MIN = 24
"""Before as many hours nothing is known of noise, and prices are expected to stay, doubtfully."""

DOUBT_UNKNOWN = 0.25
"""Standard deviation, as a share of the price, of an average that is hardly known."""

SEASON_LOOKS_MIN = 24 * 4
"""Four days, before an hour of the day is spoken of."""

SEASON_GAIN = 0.05
"""Share of the squared error by which the season has to be better."""

SEASON_RATE = 0.2
"""Weight of today in the average of an hour of the day."""

PHI_MAX = 0.9995
"""A memory of some 80 days: longer ones cannot be told from a horizon's length of data."""

_DECAY = 0.5 ** (1 / HALF_LIFE_HOURS)


@dataclass(frozen=True)
class Process:
    """Moments of one series, exponentially weighted."""

    weight: float = 0.0
    """Looks that count: grows to 1 / (1 - decay)."""
    mean: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    """Of neighbours in time."""
    last: float = 0.0
    error: float = 0.0
    """Mean square of what the step before did not foresee."""

    @property
    def phi(self) -> float:
        """How much of a deviation from the mean is left an hour later."""
        if self.variance <= 0.0:
            return 0.0
        return min(max(self.covariance / self.variance, 0.0), PHI_MAX)

    def expected(self) -> float:
        """The next value."""
        return self.mean + self.phi * (self.last - self.mean)

    def seen(self, value: float) -> "Process":
        """With one more look."""
        if self.weight == 0.0:
            return Process(weight=1.0, mean=value, last=value)
        weight = self.weight * _DECAY + 1.0
        rate = 1.0 / weight
        miss = value - self.expected()
        off, before = value - self.mean, self.last - self.mean
        return Process(
            weight=weight,
            mean=self.mean + rate * off,
            variance=(1 - rate) * (self.variance + rate * off * off),
            covariance=(1 - rate) * (self.covariance + rate * off * before),
            last=value,
            error=self.error + rate * (miss * miss - self.error),
        )


@dataclass(frozen=True)
class Forecaster:
    """The history of one cloud's price of a reference machine; any unit, more than 0."""

    hour: int | None = None
    """Hours since 1970 of the last look."""
    price: float = 0.0
    looks: int = 0
    plain: Process = field(default_factory=Process)
    rest: Process = field(default_factory=Process)
    """Without the season."""
    season: tuple[float, ...] = (0.0,) * 24
    """By hour of the day, what it is beside the mean."""

    @property
    def seasonal(self) -> bool:
        """Whether the hour of the day pays."""
        if self.looks < SEASON_LOOKS_MIN:
            return False
        return self.rest.error < (1 - SEASON_GAIN) * self.plain.error

    def seen(self, at: float, price: float) -> "Forecaster":
        """With the price as it is at `at`; several looks within an hour count as the last one."""
        hour = int(at // HOUR)
        if self.hour is None or hour - self.hour > GAP_HOURS_MAX:
            return Forecaster(hour=hour, price=price)
        history = self
        while history.hour is not None and history.hour < hour:
            history = history._passed()
        return replace(history, price=price)

    def _passed(self) -> "Forecaster":
        """An hour is over: its price goes into the history."""
        hour = self.hour or 0
        place = hour % 24
        season = list(self.season)
        off = self.price - (self.plain.mean if self.looks else self.price)
        season[place] += SEASON_RATE * (off - season[place])
        return replace(
            self,
            hour=hour + 1,
            looks=self.looks + 1,
            plain=self.plain.seen(self.price),
            rest=self.rest.seen(self.price - self.season[place]),
            season=tuple(season),
        )

    def outlook(self, horizon_seconds: float, discount_per_day: float) -> Outlook:
        """The discounted average over the horizon, of the price of now."""
        if self.price <= 0.0:
            return Outlook()
        if self.looks < LOOKS_MIN:
            return Outlook(1.0, DOUBT_UNKNOWN)
        hours = max(int(horizon_seconds // HOUR), 1)
        process = self.rest if self.seasonal else self.plain
        begun = self.hour or 0
        shift = self.season[begun % 24] if self.seasonal else 0.0
        off = (self.price - shift) - process.mean
        keep = (1.0 - discount_per_day) ** (1 / 24)
        phi, total, pull, season = process.phi, 0.0, 0.0, 0.0
        for ahead in range(hours):
            worth = keep**ahead
            total += worth
            pull += worth * phi**ahead
            if self.seasonal:
                season += worth * self.season[(begun + ahead) % 24]
        mean = process.mean + (off * pull + season) / total
        noise = self._noise(process, hours, keep, total)
        deviation = math.sqrt(noise + _vague(process, pull / total))
        return Outlook(max(mean, 0.0) / self.price, deviation / self.price)

    @staticmethod
    def _noise(process: Process, hours: int, keep: float, total: float) -> float:
        """Variance of the average that comes from what has not happened yet."""
        effect, squares, phi = 0.0, 0.0, process.phi
        # What happens `ahead` hours from now lasts, ever weaker, to the end of the horizon.
        for ahead in range(hours - 1, 0, -1):
            effect = keep**ahead + phi * effect
            squares += effect * effect
        return process.error * squares / (total * total)


def _vague(process: Process, pull: float) -> float:
    """Variance of the average that comes from not knowing the mean: a sticky series says less."""
    phi = process.phi
    independent = max(process.weight * (1 - phi) / (1 + phi), 1.0)
    return process.variance / independent * (1 - pull) ** 2
