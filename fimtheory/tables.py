"""What the command line shows: rich tables for people, JSON values for programs."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from fimtheory import families
from fimtheory.claims import Quantity
from fimtheory.derivation import Derivation
from fimtheory.registry import rules

if TYPE_CHECKING:
    from fimtheory.evaluation import Evaluation
    from fimtheory.verification import DataEstimates, Verdict

__all__ = [
    "bound_json", "bound_table", "check_table", "estimates_json", "estimates_table", "rules_json", "rules_table",
    "step_table", "targets_json", "targets_table", "verdict_table",
]  # fmt: skip


def scientific(value: float | None, log10: float) -> str:
    """Return a value in scientific notation, also where it is beyond the range of floats.

    >>> scientific(None, 412.3010299956639)
    '2.00e+412'
    """
    if value is not None and value != 0:
        return f"{value:.3g}"
    if log10 == -math.inf:
        return "0"
    exponent = math.floor(log10)
    return f"{10 ** (log10 - exponent):.2f}e{exponent:+d}"


def bound_json(name: str, derivation: Derivation, found: Evaluation, usual: Evaluation) -> dict[str, Any]:
    """Return what ``fimtheory bound --json`` prints."""
    return {
        "target": name,
        "theorem": str(derivation.bound),
        "assumptions": [condition.statement for condition in derivation.assumptions],
        "bound": {
            "log10": _finite(found.log10),
            "value": found.value,
            "status": found.status.value,
            "rules": dict(found.rules),
        },
        "baseline": {"log10": _finite(usual.log10), "status": usual.status.value},
        "expected": found.expected_json(),
        "steps": [
            {
                "block": row.block,
                "node": row.target,
                "symbol": row.symbol,
                "rule": row.rule,
                "log10": _finite(row.log10),
                "decades": None if row.decades is None else _finite(row.decades),
                "method": row.method,
            }
            for row in found.rows
        ],
        "seconds": found.seconds,
    }


def step_table(name: str, found: Evaluation) -> Table:
    """Return the steps of an evaluated bound: what each contributes, in decades."""
    table = Table(title=Text(f"{name}: certified steps"), title_justify="left")
    for heading in ("block", "node", "symbol", "rule"):
        table.add_column(heading, overflow="fold")
    table.add_column("log10", justify="right")
    table.add_column("decades", justify="right")
    table.add_column("certificate")
    block = None
    for row in found.rows:
        shown = row.block if row.block != block else ""
        block = row.block
        decades = "" if row.decades is None else f"{row.decades:+.3f}"
        cells = (shown, row.target, row.symbol, row.rule, f"{row.log10:.3f}", decades, row.method)
        table.add_row(*(Text(cell) for cell in cells), end_section=row.decades is not None)
    return table


def bound_table(found: Evaluation, usual: Evaluation, derivation: Derivation) -> Table:
    """Return the bounds with their statuses."""
    table = Table("quantity", "value", "log10", "status")
    _bound_rows(table, found, usual)
    for condition in derivation.assumptions:
        table.add_row("assumption", Text(condition.statement), "", "")
    return table


def _bound_rows(table: Table, found: Evaluation, usual: Evaluation) -> None:
    table.add_row("bound on lam", scientific(found.value, found.log10), f"{found.log10:.3f}", found.status)
    table.add_row(
        "product of layer norms, 1/2", scientific(usual.value, usual.log10), f"{usual.log10:.3f}", usual.status
    )
    what = "bound on E lam, random weights"
    if found.expected_log10 is None or found.expected_status is None:
        table.add_row(what, "", "", "none: a layer has no rule")
    else:
        log10 = found.expected_log10
        table.add_row(what, scientific(found.expected_value, log10), f"{log10:.3f}", found.expected_status)


def estimates_json(found: DataEstimates) -> dict[str, Any]:
    """Return what ``fimtheory estimate --json`` prints; an absent upper limit is null."""
    return {
        "lam": [_finite(v) for v in found.lam.tolist()],
        "log10": [_finite(v) for v in found.log10.tolist()],
        "lower": [_finite(v) for v in found.lower.tolist()],
        "upper": [_finite(v) for v in found.upper.tolist()],
        "level": found.level,
        "rounding": found.rounding,
        "method": found.method,
        "status": found.status.value,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
    }


def estimates_table(name: str, found: DataEstimates) -> Table:
    """Return a summary of lam over a dataset."""
    table = Table(
        "quantity", "value", "status", title=Text(f"{name}: lam on {len(found.lam)} inputs"), title_justify="left"
    )
    for what, value in (
        ("maximum", found.lam.max()),
        ("mean", found.lam.mean()),
        ("median", found.lam.quantile(0.5)),
        ("minimum", found.lam.min()),
    ):
        table.add_row(what, f"{value.item():.4g}", found.status)
    table.add_row("method", found.method, "")
    table.add_row("derivative products", str(found.evaluations), "")
    table.add_row("seconds", f"{found.seconds:.2f}", "")
    return table


def verdict_table(verdict: Verdict) -> Table:
    """Return a verdict: what was proved, what was found, how far apart they are."""
    table = Table("quantity", "value", "log10", "status", title=Text(verdict.target), title_justify="left")
    _bound_rows(table, verdict.bound, verdict.baseline)
    found, worst = verdict.estimates, verdict.worst
    best = int(found.log10.argmax())
    table.add_row(
        f"largest lam on {len(found.lam)} inputs",
        scientific(found.lam[best].item(), found.log10[best].item()),
        f"{found.log10[best].item():.3f}",
        found.status,
    )
    table.add_row(
        f"worst lam found from {worst.starts} starts",
        scientific(worst.value, worst.log10_value),
        f"{worst.log10_value:.3f}",
        worst.status,
    )
    table.add_row("bound over worst found, decades", "", f"{verdict.looseness_log10:.3f}", "")
    table.add_row("violations", str(verdict.violations), "", "the bound holds" if verdict.holds else "VIOLATED")
    steps, lemmas = len(verdict.derivation.steps), len(verdict.derivation.lemmas)
    table.add_row("proof", f"{lemmas} lemmas, {steps} steps", "", "replayed")
    table.add_row("seconds", ", ".join(f"{stage} {t:.1f}" for stage, t in verdict.seconds.items()), "", "")
    return table


def check_table(results: list[dict[str, Any]]) -> Table:
    """Return the outcome of replaying derivations."""
    table = Table("target", "lemmas", "steps", "verdict")
    for entry in results:
        outcome = "holds" if entry["holds"] else f"REFUSED: {entry['error']}"
        table.add_row(Text(entry["target"]), str(entry["lemmas"]), str(entry["steps"]), Text(outcome))
    return table


def rules_json() -> dict[str, Any]:
    """Return the coverage table: layer types (or runs of them) and what is known of each."""
    covered: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    for rule in rules():
        covered[tuple(t.__name__ for t in rule.types)][rule.quantity.value] = {
            "status": rule.status.value,
            "reference": {"key": rule.reference.key, "where": rule.reference.where},
        }
    return {"rules": [{"layer": list(types), "quantities": found} for types, found in sorted(covered.items())]}


def rules_table() -> Table:
    """Return the coverage table for people; bounds with their statuses and the reference of the gain."""
    table = Table("layer", "bounded quantities", "reference of the gain")
    bounded = (Quantity.GAIN, Quantity.SLOPES, Quantity.TOKEN_NORM, Quantity.JACOBIAN_VARIANCE)
    for entry in rules_json()["rules"]:
        known = entry["quantities"]
        listed = [f"{q} ({known[q.value]['status']})" for q in bounded if q.value in known]
        gain = known.get(Quantity.GAIN.value, {"reference": {}})["reference"]
        reference = ", ".join(part for part in gain.values() if part)
        table.add_row(" + ".join(entry["layer"]), ", ".join(listed) or "by composition", reference)
    return table


def targets_json() -> dict[str, Any]:
    """Return every target that needs no file."""
    from fimtheory import zoo

    listed = [{"name": n, "kind": "preset", "description": p.description} for n, p in families.PRESETS.items()]
    listed += [{"name": n, "kind": "symbolic", "description": p.description} for n, p in families.SYMBOLIC.items()]
    for name in zoo.names():
        card = zoo.card(name)
        accuracy = f"{card['training']} training, test accuracy {card['test_accuracy']:.3f}"
        listed.append({"name": f"zoo:{name}", "kind": "trained", "description": f"8x8 digits, {accuracy}"})
    return {"targets": listed}


def targets_table() -> Table:
    """Return the targets for people."""
    table = Table("target", "kind", "what it is")
    for entry in targets_json()["targets"]:
        table.add_row(Text(entry["name"]), entry["kind"], Text(entry["description"]))
    return table


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
