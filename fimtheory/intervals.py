"""What a sample of lam says about the inputs it was drawn from: statistics with confidence intervals."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.decimals import finite_or_none, significant
from fimtheory.errors import DataError

__all__ = ["Interval", "Statistic", "Summary", "exceeding_share", "mean_interval", "quantile_ranks", "summarised"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BOOTSTRAP, ORDER = "bootstrap", "order statistics"
_ENTRIES = 2**22
"""Numbers resampled at once: 32 MiB."""


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """An interval for a statistic of the distribution that a sample is from.

    Attributes
    ----------
    low, high : float
        Ends, in units of lam; 0 and ``inf`` where the sample is too small to give one.
    log10_low, log10_high : float
        Their decimal logarithms.
    by : str
        ``"order statistics"``: holds with at least its level, whatever the distribution.  ``"bootstrap"``: with about
        its level, in the limit of many inputs.
    """

    low: float
    high: float
    log10_low: float
    log10_high: float
    by: str


@final
@dataclass(frozen=True, slots=True)
class Statistic:
    """A statistic of a sample of lam, with its decimal logarithm; ``interval`` is None where there is none."""

    name: str
    value: float
    log10: float
    interval: Interval | None


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of lam over n inputs, each with an interval for the distribution that the inputs are from.

    Attributes
    ----------
    statistics : tuple of Statistic
        Minimum, quantiles, geometric mean (ten to the mean of log10 lam), mean and maximum.
    n : int
        Number of inputs.
    status : Status
        Of the values that are summarised.  Where it is ``LOWER`` they are lower bounds on lam: the statistics are lower
        bounds on those of lam, and so are the low ends of the intervals; the high ends say nothing about lam, which may
        be larger.
    level : float
        Of each interval, taken by itself.
    exceeding : float
        q such that, with confidence ``level``, at most the fraction q of inputs has a larger value than the maximum.
    resamples : int
        Of the bootstrap.
    """

    statistics: tuple[Statistic, ...]
    n: int
    status: Status
    level: float
    exceeding: float
    resamples: int

    def __getitem__(self, name: str) -> Statistic:
        for statistic in self.statistics:
            if statistic.name == name:
                return statistic
        raise KeyError(f"{name!r}: the statistics are {', '.join(s.name for s in self.statistics)}")

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} {significant(self[name].value, self[name].log10, up=False)}"
            for name in ("median", "mean", "maximum")
        )
        return f"<Summary: lam of {self.n} inputs, {shown} ({self.status})>"

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON value: null for what is absent or exceeds the range of floats."""
        return {
            "n": self.n,
            "status": self.status.value,
            "level": self.level,
            "resamples": self.resamples,
            "statistics": {
                s.name: {
                    "lam": finite_or_none(s.value),
                    "log10": finite_or_none(s.log10),
                    "interval": None if s.interval is None else {
                        "lam": [finite_or_none(s.interval.low), finite_or_none(s.interval.high)],
                        "log10": [finite_or_none(s.interval.log10_low), finite_or_none(s.interval.log10_high)],
                        "by": s.interval.by,
                    },
                }
                for s in self.statistics
            },
            "exceeding": self.exceeding,
        }  # fmt: skip


def summarised(
    lam: Tensor, log10_lam: Tensor, status: Status, *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Summary:
    """Return statistics of lam over a sample of inputs.

    The intervals are about the distribution that the inputs are drawn from, and suppose that they are drawn from it
    independently; they do not cover errors of the values themselves, which ``status`` is about.

    - Quantiles are values of the sample (the least that is not below a fraction p of it), and so are the ends of their
      intervals, whose ranks come from the binomial distribution: exact, of any distribution (`quantile_ranks`).
    - Means have bootstrap intervals (`mean_interval`), whose level is approximate, and optimistic where a few inputs
      carry the mean, as they do when lam spans decades.
    - The extremes have none: no sample bounds what an unseen input may do, and the bootstrap of a maximum does not even
      converge.  What the sample does prove is the fraction of inputs above its maximum (`exceeding_share`).

    Parameters
    ----------
    lam, log10_lam : Tensor
        ``(n,)`` float64; where lam leaves the range of floats, its logarithm still counts.
    status : Status
        Of the values.
    level : float
        Of each interval.
    resamples : int
        Of the bootstrap, at least 100.
    seed : int
        Of the bootstrap.

    Raises
    ------
    DataError
        The level, the number of resamples or the seed makes no sense.
    """
    if not 0 < level < 1:
        raise DataError(f"level is {level}: expected a number between 0 and 1")
    if resamples < 100 or seed < 0:
        raise DataError(f"resamples = {resamples}, seed = {seed}: expected at least 100 and at least 0")
    order = log10_lam.argsort()
    values, logs = lam[order].tolist(), log10_lam[order].tolist()
    n = len(values)

    def ranked(name: str, rank: int, interval: Interval | None = None) -> Statistic:
        return Statistic(name, values[rank - 1], logs[rank - 1], interval)

    def end(rank: int) -> tuple[float, float]:
        if rank < 1:
            return 0.0, -math.inf
        return (values[rank - 1], logs[rank - 1]) if rank <= n else (math.inf, math.inf)

    quantiles = []
    for p in QUANTILES:
        ranks = quantile_ranks(n, p, level)
        (low, log_low), (high, log_high) = map(end, ranks)
        known = Interval(low, high, log_low, log_high, ORDER) if ranks != (0, n + 1) else None
        name = "median" if p == 0.5 else f"{p:g} quantile"
        quantiles.append(ranked(name, _rank(n, p), known))
    exact = np.array(logs)
    unit = logs[-1] if logs[-1] > -math.inf else 0.0  # the mean is taken in units of the maximum, so that it is a float
    scaled = 10 ** (exact - unit)
    ends = mean_interval(scaled, level, resamples, seed)
    return Summary(
        (
            ranked("minimum", 1),
            *quantiles,
            ranked("maximum", n),
            _of_logarithms("geometric mean", float(exact.mean()), mean_interval(exact, level, resamples, seed)),
            _of_logarithms(
                "mean",
                unit + _log10(scaled.mean()),
                None if ends is None else (unit + _log10(ends[0]), unit + _log10(ends[1])),
            ),
        ),
        n,
        status,
        level,
        exceeding_share(n, level),
        resamples,
    )


def quantile_ranks(n: int, p: float, level: float) -> tuple[int, int]:
    """Return ranks between whose values in a sorted sample the quantile of ``p`` lies, with probability ``level``.

    Of n independent draws the number at most ``q_p`` is at least, and that below ``q_p`` at most, binomial of n and p.
    So the value of rank l is above ``q_p`` with probability at most ``P(Bin(n, p) < l)``, and that of rank u below it
    with at most ``P(Bin(n, p) >= u)``; each is made at most ``(1 - level) / 2``.  Exact for every distribution, with
    equality only for continuous ones.

    Returns
    -------
    low, high : int
        From 1 to n; ``low = 0`` and ``high = n + 1`` where no value of the sample is far enough out.

    Examples
    --------
    >>> quantile_ranks(100, 0.5, 0.95), quantile_ranks(5, 0.5, 0.95)
    ((40, 61), (0, 6))
    """
    from scipy.stats import binom  # takes a second to import

    tail = (1 - level) / 2
    low = int(binom.ppf(tail, n, p))  # the least k with P(Bin <= k) >= tail, so that P(Bin < k) < tail
    high = int(binom.isf(tail, n, p)) + 1  # the least k with P(Bin > k) <= tail
    return low, high


def mean_interval(values: np.ndarray, level: float, resamples: int, seed: int) -> tuple[float, float] | None:
    """Return a bootstrap interval of the mean (bias-corrected and accelerated), or None where none can be had.

    Its level is right in the limit of many values, and too high for a few that are skewed.  At level 0.95 it covered
    the mean of log-normal distributions, whose natural logarithm had a standard deviation of 0.5, 1 and 2, in 93, 90
    and 78 % of 2,000 simulated samples of 50 values, in 93, 92 and 84 % of 200, and in 94, 94 and 89 % of 1,000.

    References
    ----------
    B. Efron, "Better bootstrap confidence intervals", J. Amer. Statist. Assoc. 82 (1987), as in scipy.stats.bootstrap.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    if len(values) < 2 or not np.isfinite(values).all() or values.min() == values.max():
        return None
    mean, deviation = values.mean(), values.std()  # third moments of tiny deviations would underflow
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)  # the interval is NaN then, or empty
        found = bootstrap(
            ((values - mean) / deviation,),
            lambda sample, axis: sample.mean(axis),
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _ENTRIES // len(values)),
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(mean + deviation * found.low), float(mean + deviation * found.high)
    return (low, high) if -math.inf < low <= high < math.inf else None


def exceeding_share(n: int, level: float) -> float:
    """Return q such that at most the fraction q of a distribution exceeds the maximum of n draws.

    It holds with confidence ``level``: a value that a fraction above q exceeds is not reached by n independent draws
    with probability below ``(1 - q)^n = 1 - level``, whatever the distribution.

    >>> round(exceeding_share(59, 0.95), 4)
    0.0495
    """
    return -math.expm1(math.log1p(-level) / n)


def _rank(n: int, p: float) -> int:
    """Return the rank of the quantile of ``p``: the least k with ``k >= n p``, where ``p`` is meant as a decimal."""
    return max(1, math.ceil(n * p - 1e-9))


def _of_logarithms(name: str, log10: float, ends: tuple[float, float] | None) -> Statistic:
    interval = None if ends is None else Interval(_power(ends[0]), _power(ends[1]), ends[0], ends[1], BOOTSTRAP)
    return Statistic(name, _power(log10), log10, interval)


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def _power(log10: float) -> float:
    return 10.0**log10 if log10 < 308.25 else math.inf
