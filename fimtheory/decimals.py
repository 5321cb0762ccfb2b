"""Numbers in decimal, rounded in the direction that keeps what they claim true.

A bound is rounded up, what a search attained down.  A float is a fraction of a power of two, so that its decimal
expansion is finite and every rounding here is exact; only powers of ten with a fractional exponent are not, and they
are enclosed.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal

__all__ = ["finite_or_none", "fixed", "significant"]

_EXACT = Context(1200, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""More digits than any float has."""
_ENCLOSING = Context(60)


def finite_or_none(value: float) -> float | None:
    """Return a float that JSON can hold, or None.

    >>> finite_or_none(1.5), finite_or_none(math.inf)
    (1.5, None)
    """
    return value if math.isfinite(value) else None


def fixed(value: float, *, up: bool, places: int = 3) -> str:
    """Return a number with a fixed number of decimals.

    >>> fixed(1.2341, up=True), fixed(1.2341, up=False), fixed(-1.2341, up=True), fixed(-0.0001, up=True)
    ('1.235', '1.234', '-1.234', '0.000')
    """
    if not math.isfinite(value):
        return str(value)
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-places), _direction(up), _EXACT)
    return f"{rounded if rounded else abs(rounded):f}"


def significant(value: float | None, log10: float, *, up: bool, digits: int = 3) -> str:
    """Return a number >= 0 with a few significant digits: ``value``, or ``10**log10`` where floats do not hold it.

    >>> significant(468.01, 2.67, up=True), significant(468.01, 2.67, up=False), significant(1e8, 8.0, up=True)
    ('469', '468', '1.00e+8')
    >>> significant(None, 412.3010299956639, up=True), significant(0.0, -500.5, up=False)
    ('2.00e+412', '3.16e-501')
    """
    if value is None or not 0 < value < math.inf:
        if math.isinf(log10):
            return "0" if log10 < 0 else "inf"
        number = _power_of_ten(log10, up)
    else:
        number = Decimal(value)
    rounded = Context(digits, _direction(up), MIN_EMIN, MAX_EMAX).plus(number)
    exponent = rounded.adjusted()
    if -4 <= exponent < digits:
        return f"{rounded:f}"
    return f"{rounded.scaleb(-exponent, _EXACT):f}e{exponent:+d}"


def _direction(up: bool) -> str:
    return ROUND_CEILING if up else ROUND_FLOOR


def _power_of_ten(log10: float, up: bool) -> Decimal:
    """Return 10**log10 from above or below: a power is computed to within one unit in its last digit."""
    whole = math.floor(log10)
    fraction = _EXACT.subtract(Decimal(log10), Decimal(whole))
    power = _ENCLOSING.power(10, fraction)
    if fraction != 0:
        power = _ENCLOSING.next_plus(power) if up else _ENCLOSING.next_minus(power)
    return power.scaleb(whole, _EXACT)
