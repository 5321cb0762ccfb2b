"""What the command line shows of lam at many inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from fimtheory.claims import Status
from fimtheory.decimals import finite_or_none, fixed, significant

if TYPE_CHECKING:
    from fimtheory.intervals import Interval, Summary
    from fimtheory.surveys import Survey

__all__ = ["estimates_json", "estimates_table"]

_OF_LOWER_BOUNDS = (
    "The values are lower bounds on lam. So the low end of an interval holds for lam, too, and the high end does not: "
    "lam may be larger."
)


def estimates_json(name: str, data: str, seed: int, found: Survey, summary: Summary) -> dict[str, Any]:
    """Return what ``fimtheory estimate --json`` prints; an absent upper limit is null."""
    return {
        "target": name,
        "data": data,
        "seed": seed,
        "source_index": None if found.source_index is None else found.source_index.tolist(),
        "lam": [finite_or_none(v) for v in found.lam.tolist()],
        "log10": [finite_or_none(v) for v in found.log10_lam.tolist()],
        "lower": [finite_or_none(v) for v in found.lower.tolist()],
        "upper": [finite_or_none(v) for v in found.upper.tolist()],
        "level": found.level,
        "rounding": found.rounding,
        "method": found.method,
        "status": found.status.value,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "note": found.note,
        "summary": summary.to_json(),
    }


def estimates_table(
    name: str, data: str, seed: int, found: Survey, summary: Summary, level: float | None = None
) -> Table:
    """Return a summary of lam over a dataset; ``level`` is that of upper limits, where they were asked for."""
    table = Table(title=Text(f"{name}: lam on {summary.n} inputs"), title_justify="left", caption_justify="left")
    table.add_column("statistic")
    table.add_column("lam", justify="right", no_wrap=True)
    table.add_column("log10", justify="right", no_wrap=True)
    table.add_column("status")
    table.add_column(f"interval of\nconfidence {100 * summary.level:g} %", justify="right", no_wrap=True)
    status = found.status if found.level is None else Status.LOWER
    for statistic in (*reversed(summary.statistics[:-2]), *summary.statistics[-2:]):  # extremes and quantiles, means
        value = significant(statistic.value, statistic.log10, up=False)
        table.add_row(statistic.name, value, fixed(statistic.log10, up=False), status, _ends(statistic.interval))
    if found.level is not None:
        most = int(found.log10_upper.argmax())
        limit, log10 = found.upper[most].item(), found.log10_upper[most].item()
        shown = significant(limit, log10, up=True), fixed(log10, up=True)
        table.add_row("largest upper limit", *shown, f"level {found.level}", "")
    what = "a larger lam" if status is Status.EXACT else "a larger lower bound on lam"
    share = significant(100 * summary.exceeding, math.log10(100 * summary.exceeding), up=True)
    table.caption = Text("\n".join([
        f"Data: {data} (seed {seed}).",
        f"Method: {found.method}; {found.evaluations} derivative products in {found.seconds:.1f} s.",
        *([f"Note: {found.note}."] if found.note else []),
        "Intervals are for the source of the data, if inputs are drawn from it independently. Those of quantiles hold "
        "with at least their confidence, those of means with about theirs (bootstrap).",
        *([_OF_LOWER_BOUNDS] if status is Status.LOWER else []),
        f"With confidence {100 * summary.level:g} %, at most {share} % of the source has {what} than the maximum.",
    ]), justify="left")  # fmt: skip
    if level is not None and found.level is None:
        table.caption += Text(f"\nThe values are {found.status}, so that no limit of level {level} is needed.")
    return table


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low = significant(interval.low, interval.log10_low, up=False)
    return f"{low} to {significant(interval.high, interval.log10_high, up=True)}"
