r"""Numbers for print, rounded in the direction that keeps what they claim true."""

from __future__ import annotations

import math

__all__ = ["decimals", "scientific"]

_PLACES = 3


def decimals(value: float | None, *, up: bool, places: int = _PLACES) -> str:
    """Return a number with a fixed number of decimals, rounded up or down.

    >>> decimals(1.2341, up=True), decimals(-1.2341, up=False), decimals(None, up=True)
    ('$1.235$', '$-1.235$', '--')
    """
    if value is None or math.isnan(value):
        return "--"
    if math.isinf(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    scaled = value * 10**places
    nearest = round(scaled)
    exact = abs(scaled - nearest) < 1e-9
    whole = nearest if exact else math.ceil(scaled) if up else math.floor(scaled)
    return f"${whole / 10**places:.{places}f}$"


def scientific(log10: float | None, *, up: bool) -> str:
    r"""Return the number with a decimal logarithm, three digits and a power of ten, rounded up or down.

    >>> print(scientific(412.3010299956639, up=False))
    $2.00\times 10^{412}$
    """
    if log10 is None or math.isnan(log10):
        return "--"
    if math.isinf(log10):
        return "$0$" if log10 < 0 else r"$\infty$"
    exponent = math.floor(log10)
    scaled = 100 * 10 ** (log10 - exponent)
    slack = 1e-9 * scaled  # of the float that holds the logarithm
    digits = math.ceil(scaled - slack) if up else math.floor(scaled + slack)
    if digits >= 1000:
        digits, exponent = 100, exponent + 1
    mantissa = f"{digits / 100:.2f}"
    if -2 <= exponent <= 3:
        return f"${digits / 100 * 10**exponent:.{max(0, 2 - exponent)}f}$"
    return rf"${mantissa}\times 10^{{{exponent}}}$"
