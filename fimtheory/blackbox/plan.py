"""How the queries that each input may cost are spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fimtheory.blackbox.differences import LINES, SCALES
from fimtheory.errors import DataError

__all__ = ["METHODS", "Plan"]

METHODS = ("auto", "basis", "sketch")
_FEWEST_PROBES = 8
_LARGEST_BASIS = 4096


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """Queries of one input.

    Attributes
    ----------
    method : str
        ``"basis"``: one probe along each direction of an orthonormal basis, so that nothing is left to chance.
        ``"sketch"``: probes along random directions.
    centre : int
        Queries at the input itself, to see whether answers repeat, and one beside it, to see how they are written.
    pilot : int
        Queries that choose the step.
    probes : int
        Directions, two queries each.
    checks : int
        Directions of these that are measured at a second step, two more queries each.
    """

    method: str
    centre: int
    pilot: int
    probes: int
    checks: int

    @property
    def queries(self) -> int:
        """All queries of one input."""
        return self.centre + self.pilot + 2 * (self.probes + self.checks)

    @classmethod
    def of(cls, queries: int, size: int, method: str, *, pilot: bool) -> Plan:
        """Return the plan for a budget.

        Parameters
        ----------
        queries : int
            Most queries of one input.
        size : int
            Numbers in one input, d.
        method : str
            ``"auto"`` takes the basis where the budget covers it and d is at most 4096.
        pilot : bool
            Whether the step is to be found.

        Raises
        ------
        DataError
            The budget is too small; the message names the least one.

        Examples
        --------
        >>> plan = Plan.of(200, 3072, "auto", pilot=True)
        >>> plan.method, plan.probes, plan.queries
        ('sketch', 80, 200)
        """
        centre, looks = (4, 2 * LINES * SCALES) if pilot else (2, 0)
        checks = min(max(queries // 25, 2), 8)
        probes = (queries - centre - looks - 2 * checks) // 2
        basis = size <= probes and (method == "basis" or size <= _LARGEST_BASIS)
        if method == "basis" and not basis:
            raise DataError(
                f"{queries} queries do not cover the {size} directions of an input; give at least "
                f"{centre + looks + 2 * size + 16}, or use method='sketch'"
            )
        if basis and method != "sketch":
            return cls("basis", centre, looks, size, min(checks, size))
        if probes < _FEWEST_PROBES:
            least = centre + looks + 2 * (_FEWEST_PROBES + 2)
            raise DataError(f"{queries} queries for each input are too few for any statement: give at least {least}")
        return cls("sketch", centre, looks, probes, checks)
