"""What the command line shows: rich tables for people, JSON values for programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fimtheory import families
from fimtheory.claims import Quantity, Status
from fimtheory.decimals import finite_or_none, fixed, significant
from fimtheory.derivation import Derivation
from fimtheory.registry import rule_named, rules
from fimtheory.text import plain

if TYPE_CHECKING:
    from fimtheory.evaluation import Evaluation, Row
    from fimtheory.local import LocalBounds
    from fimtheory.radii import CertifiedAccuracy, Radii
    from fimtheory.surveys import Survey
    from fimtheory.verification import Verdict

__all__ = [
    "bound_json", "bound_table", "check_table", "ladder_table", "local_json",
    "local_tables", "radius_json", "radius_tables", "rules_json", "rules_table", "step_table", "targets_json",
    "targets_table", "verdict_table",
]  # fmt: skip

_MOST_INPUTS = 20  # in a table of inputs


def bound_json(name: str, derivation: Derivation, found: Evaluation, usual: Evaluation) -> dict[str, Any]:
    """Return what ``fimtheory bound --json`` prints."""
    return {
        "target": name,
        "theorem": str(derivation.bound),
        "assumptions": [condition.statement for condition in derivation.assumptions],
        "bound": {
            "log10": finite_or_none(found.log10),
            "value": found.value,
            "status": found.status.value,
            "domain": found.domain,
            "rules": dict(found.rules),
        },
        "baseline": {"log10": finite_or_none(usual.log10), "status": usual.status.value},
        "ladder": [
            {"rung": rung.name, "log10": finite_or_none(rung.log10), "status": rung.status.value}
            for rung in found.ladder
        ],
        "expected": found.expected_json(),
        "steps": [
            {
                "block": row.block,
                "node": row.target,
                "symbol": row.symbol,
                "rule": row.rule,
                "log10": finite_or_none(row.log10),
                "decades": None if row.decades is None else finite_or_none(row.decades),
                "method": row.method,
            }
            for row in found.rows
        ],
        "seconds": found.seconds,
    }


def ladder_table(name: str, found: Evaluation, usual: Evaluation) -> Table:
    """Return the bound after each kind of rule, starting with what is usually reported."""
    table = Table(title=Text(f"{name}: the bound, rung by rung"), title_justify="left", caption_justify="left")
    table.add_column("rung")
    table.add_column("log10", justify="right", no_wrap=True)
    table.add_column("taken off", justify="right", no_wrap=True)
    table.add_column("status")
    last = usual.log10
    table.add_row("product of layer norms, 1/2", fixed(last, up=True), "", usual.status)
    for rung in found.ladder:
        table.add_row(rung.name, fixed(rung.log10, up=True), fixed(max(0.0, last - rung.log10), up=False), rung.status)
        last = rung.log10
    table.caption = _lines(["Each rung keeps the rules before it; decades of lam are taken off."])
    return table


def local_json(name: str, data: str, seed: int, found: LocalBounds, at_centre: Survey) -> dict[str, Any]:
    """Return what ``fimtheory bound --around --json`` prints."""
    return {
        "target": name,
        "data": data,
        "seed": seed,
        "eps": found.radius,
        "norm": found.norm,
        "bound": {"lam": [finite_or_none(v) for v in found.value.tolist()], "status": found.status.value},
        "by": list(found.by),
        "open_slopes": found.open.tolist(),
        "at_centre": {"lam": [finite_or_none(v) for v in at_centre.lam.tolist()], "status": at_centre.status.value,
                      "method": at_centre.method},
    }  # fmt: skip


def local_tables(name: str, data: str, seed: int, found: LocalBounds, at_centre: Survey) -> list[Table]:
    """Return the bound in the ball around each input, and quantiles."""
    title = f"{name}: lam within {found.radius:g} ({found.norm}) of {len(found)} inputs"
    each = Table(title=Text(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    each.add_column("input", justify="right", no_wrap=True)
    each.add_column(f"there ({at_centre.status})", justify="right", no_wrap=True)
    each.add_column(f"in the ball ({found.status})", justify="right", no_wrap=True)
    each.add_column("by", no_wrap=True)
    each.add_column("open", justify="right", no_wrap=True)
    shown = min(len(found), _MOST_INPUTS)
    for k in range(shown):
        lam, bound = at_centre.lam[k], found.value[k]
        each.add_row(
            str(k),
            significant(lam.item(), lam.log10().item(), up=False),
            significant(bound.item(), bound.log10().item(), up=True),
            found.by[k],
            str(found.open[k].item()),
        )
    table = _quantities(None)
    for what, bound in (
        ("largest", found.value.max()),
        ("median", found.value.quantile(0.5, interpolation="higher")),
        ("smallest", found.value.min()),
    ):
        _add(table, f"{what} bound in a ball", bound.item(), bound.log10().item(), found.status, up=True)
    rest = len(found) - shown
    table.caption = _lines([
        *([f"{rest} more inputs are not shown; --json has all."] if rest else []),
        "In the ball: lam is at most that; open: slopes of activations that the ball leaves open.",
        f"Data: {data} (seed {seed}). Lengths are in units of the model's input.",
        "Logits are those of float64; rounding inside the network is not modelled.",
    ])  # fmt: skip
    return [each, table]


def step_table(name: str, found: Evaluation) -> Table:
    """Return an evaluated bound: each block with what it contributes, in decades, above its steps of gain not 1."""
    table = Table(title=Text(f"{name}: certified steps"), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    longest = max(len(row.block) for row in found.rows)
    table.add_column("block and node", overflow="fold", min_width=min(longest, 32))
    table.add_column("step: certificate", overflow="fold")
    table.add_column("log10", justify="right", no_wrap=True)
    table.add_column("decades", justify="right", no_wrap=True)
    steps: list[Row] = []
    left_out = 0
    for row in found.rows:
        steps.append(row)
        if row.decades is None:
            continue
        table.add_row(Text(row.block, "bold"), "", fixed(row.log10, up=True), fixed(row.decades, up=True))
        shown = [step for step in steps if step.log10 != 0 or step.method]
        left_out += len(steps) - len(shown)
        for step in shown:
            if step is not row or step.rule != "series":
                node = step.target.removeprefix(f"{row.block}.")
                what = f"{_step(step)}: {step.method}" if step.method else _step(step)
                table.add_row(Text(f"  {node}"), Text(what), fixed(step.log10, up=True), "")
        steps = []
    if left_out:
        table.caption = _lines([f"{left_out} steps of gain exactly 1 are left out."])
    return table


def _step(row: Row) -> str:
    """Return how a step bounds: the name of its inference rule, or its layers."""
    rule = rule_named(row.rule)
    if rule is None:
        return row.rule
    layers = " + ".join(kind.__name__ for kind in rule.types)
    return layers if rule.quantity is Quantity.GAIN else f"{rule.quantity} after {layers}"


def bound_table(found: Evaluation, usual: Evaluation, derivation: Derivation) -> Table:
    """Return the bounds with their statuses, and what they assume."""
    table = _quantities(None)
    _bound_rows(table, found, usual)
    table.caption = _lines(_domain(found, derivation))
    return table


def _quantities(title: str | None) -> Table:
    table = Table(title=None if title is None else Text(title), title_justify="left", caption_justify="left")
    table.add_column("quantity")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("log10", justify="right", no_wrap=True)
    table.add_column("status")
    return table


def _add(table: Table, what: str, value: float | None, log10: float, status: str, *, up: bool) -> None:
    """Append a number: an upper bound is rounded up, what was found down."""
    table.add_row(Text(what), significant(value, log10, up=up), fixed(log10, up=up), status)


def _bound_rows(table: Table, found: Evaluation, usual: Evaluation) -> None:
    _add(table, "bound on lam", found.value, found.log10, found.status, up=True)
    _add(table, "product of layer norms, 1/2", usual.value, usual.log10, usual.status, up=True)
    what = "bound on E lam, random weights"
    if found.expected_log10 is None or found.expected_status is None:
        table.add_row(what, "", "", "none: a layer has no rule")
    else:
        _add(table, what, found.expected_value, found.expected_log10, found.expected_status, up=True)


def _domain(found: Evaluation, derivation: Derivation) -> list[str]:
    """Return sentences that say where the worst-case bounds hold."""
    assumed = [f"Assumption: {plain(condition.statement)}" for condition in derivation.assumptions]
    return [f"Domain of the worst-case bounds: {found.domain}.", *assumed]


def _lines(lines: list[str]) -> Text:
    return Text("\n".join(lines), justify="left")


def verdict_table(verdict: Verdict) -> Table:
    """Return a verdict: what was proved, what was found, how far apart they are."""
    table = _quantities(verdict.target)
    _bound_rows(table, verdict.bound, verdict.baseline)
    found, worst = verdict.estimates, verdict.worst
    best = int(found.log10_lam.argmax())
    largest = f"largest lam on {len(found.lam)} inputs"
    _add(table, largest, found.lam[best].item(), found.log10_lam[best].item(), found.status, up=False)
    searched = f"worst lam found from {worst.starts} starts"
    _add(table, searched, worst.value, worst.log10_value, worst.status, up=False)
    table.add_row("bound over largest found, decades", "", fixed(verdict.looseness_log10, up=True), "")
    table.add_row("violations", str(verdict.violations), "", "the bound holds" if verdict.holds else "VIOLATED")
    steps, lemmas = len(verdict.derivation.steps), len(verdict.derivation.lemmas)
    spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in verdict.seconds.items())
    data = f"Data: {verdict.data} (seed {verdict.seed})."
    proof = f"Proof replayed: {lemmas} lemmas, {steps} steps."
    table.caption = _lines([*_domain(verdict.bound, verdict.derivation), data, proof, f"Seconds: {spent}."])
    return table


def radius_json(
    name: str, data: str, seed: int, found: Evaluation, radii: Radii, accuracy: CertifiedAccuracy | None
) -> dict[str, Any]:
    """Return what ``fimtheory radius --json`` prints: null for an infinite radius, and for accuracy without labels."""
    return {
        "target": name,
        "data": data,
        "seed": seed,
        "bound": {"log10": finite_or_none(found.log10), "value": found.value, "status": found.status.value,
                  "domain": found.domain},
        "norm": "l2, in the units of the model's input",
        "status": radii.status.value,
        "radius": [finite_or_none(v) for v in radii.radius.tolist()],
        "margin": [finite_or_none(v) for v in radii.margin.tolist()],
        "fisher_rao": [finite_or_none(v) for v in radii.fisher_rao.tolist()],
        "local": None if radii.local is None else radii.local.tolist(),
        "by": list(radii.by),
        "predicted": radii.predicted.tolist(),
        "median": finite_or_none(radii.median),
        "labels": None if accuracy is None else accuracy.labels.tolist(),
        "accuracy": None if accuracy is None else accuracy.at(0),
        "certified_accuracy": None if accuracy is None else [
            {"radius": radius, "accuracy": share} for radius, share in accuracy.table()
        ],
    }  # fmt: skip


def radius_tables(
    name: str, data: str, seed: int, found: Evaluation, radii: Radii, accuracy: CertifiedAccuracy | None
) -> list[Table]:
    """Return the bound and the radii that follow from it, and the certified accuracy where there are labels."""
    table = _quantities(f"{name}: certified l2 radii of {len(radii)} inputs")
    _add(table, "bound on lam", found.value, found.log10, found.status, up=True)
    rows = [
        ("largest radius", radii.radius.max()),
        ("median radius", radii.radius.quantile(0.5, interpolation="lower")),
        ("smallest radius", radii.radius.min()),
        ("median radius, margin alone", radii.margin.quantile(0.5, interpolation="lower")),
        ("median radius, Fisher-Rao alone", radii.fisher_rao.quantile(0.5, interpolation="lower")),
    ]
    if radii.local is not None:
        rows.append(("median radius, local alone", radii.local.quantile(0.5, interpolation="lower")))
    for what, radius in rows:
        _add(table, what, radius.item(), radius.log10().item(), radii.status, up=False)
    won = ", ".join(f"{count} by {by}" for by, count in Counter(radii.by).most_common())
    table.caption = _lines([
        *_domain(found, found.derivation),
        f"Data: {data} (seed {seed}). Radii are in units of the model's input; the largest is given: {won}.",
        "Logits are those of float64; rounding inside the network is not modelled"
        + ("." if radii.local is None else ", except in local radii."),
    ])  # fmt: skip
    if accuracy is None:
        return [table]
    shares = Table(title=Text(f"{name}: certified accuracy"), title_justify="left", caption_justify="left")
    shares.add_column("l2 radius", justify="right")
    shares.add_column("right and certified", justify="right")
    shares.add_column("status")
    for radius, _ in accuracy.table():
        status = radii.status if radius else Status.EXACT
        shares.add_row(f"{radius:g}", f"{accuracy.count(radius)} of {len(radii)}", status)
    shares.caption = _lines(["Inputs that are classified right, and so is every input nearer to them than the radius."])
    return [table, shares]


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
