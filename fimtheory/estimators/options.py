"""Options that only some methods take, and what their values must be."""

from __future__ import annotations

from collections.abc import Mapping

from fimtheory.errors import DataError

__all__ = ["check_options", "require_fraction", "require_probes"]


def check_options(methods: Mapping[str, tuple[str, ...]], method: str, **given: float | None) -> None:
    """Refuse a method that does not exist, options it does not take, and values that none could take.

    Parameters
    ----------
    methods : mapping
        The options that each method takes.
    method : str
        The one asked for.
    **given : float or None
        Options by name; None for those left out.

    Raises
    ------
    DataError
        The message says what would be taken.

    Examples
    --------
    >>> check_options({"exact": (), "sketch": ("probes",)}, "exact", probes=9)
    Traceback (most recent call last):
        ...
    fimtheory.errors.DataError: method 'exact' has no probes: leave it out, or use the method 'sketch'
    """
    if method not in methods:
        raise DataError(f"method is {method!r}: expected one of {', '.join(map(repr, methods))}")
    for name, value in given.items():
        if value is None:
            continue
        if name not in methods[method]:
            takers = " or ".join(repr(other) for other, taken in methods.items() if name in taken)
            raise DataError(f"method {method!r} has no {name}: leave it out, or use the method {takers}")
        if name in ("tol", "level"):
            require_fraction(name, value)
        if name == "probes":
            require_probes(value, 1, f"the method {method!r}")


def require_fraction(name: str, value: float) -> None:
    """Refuse a value that is not strictly between 0 and 1.

    Raises
    ------
    DataError
        The message names the option.
    """
    if not 0 < value < 1:
        raise DataError(f"{name} is {value}: expected a number between 0 and 1")


def require_probes(probes: object, least: int, method: str) -> None:
    """Refuse a number of probes that is no integer or below ``least``.

    Raises
    ------
    DataError
        The message says how many the method needs.
    """
    if not isinstance(probes, int) or isinstance(probes, bool) or probes < least:
        raise DataError(f"probes is {probes!r}: {method} needs an integer of at least {least}")
