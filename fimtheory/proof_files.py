"""Derivations to and from JSON.  Reading validates the form; whether the proof holds is for the kernel to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sympy

from fimtheory.claims import Claim, Condition, Measured, Quantity, Reference, Relation, Status
from fimtheory.derivation import Derivation, Instance, Lemma, Step, Theorem
from fimtheory.errors import FormatError
from fimtheory.expressions import from_json, to_json
from fimtheory.files import graph_from_json, graph_to_json, read_json, write_json

__all__ = ["derivation_from_json", "derivation_to_json", "load_derivation", "save_derivation"]

_FORMAT = "fimtheory-derivation"


def save_derivation(derivation: Derivation, path: str | Path) -> None:
    """Write a derivation as JSON; the file appears whole or not at all."""
    write_json(derivation_to_json(derivation), path)


def load_derivation(path: str | Path) -> Derivation:
    """Read a derivation; nothing in it is believed until ``fimtheory.check`` has replayed it.

    Raises
    ------
    FormatError, GraphError
        The file is not a derivation or its graph is not valid.
    """
    return derivation_from_json(read_json(path), where=str(path))


def derivation_to_json(derivation: Derivation) -> dict[str, Any]:
    """Return a derivation as a JSON value."""
    theorem = derivation.theorem
    return {
        "format": _FORMAT,
        "version": 1,
        "graph": graph_to_json(derivation.graph),
        "temperature": to_json(derivation.temperature),
        "token_variance": None if derivation.token_variance is None else to_json(derivation.token_variance),
        "lemmas": [
            {
                "letter": lemma.letter,
                "title": lemma.title,
                "steps": [_step_to_json(step) for step in lemma.steps],
                "gain": lemma.gain,
                "variance": lemma.variance,
                "instances": [{"entry": i.entry, "members": list(i.members)} for i in lemma.instances],
            }
            for lemma in derivation.lemmas
        ],
        "theorem": {
            "head": theorem.head,
            "measured": [_measured_to_json(m) for m in theorem.measured],
            "bound": to_json(theorem.bound),
            "expected": None if theorem.expected is None else to_json(theorem.expected),
            "expected_status": None if theorem.expected_status is None else theorem.expected_status.value,
            "assumptions": [c.statement for c in theorem.assumptions],
            "expected_assumptions": [c.statement for c in theorem.expected_assumptions],
            "definitions": [[to_json(name), to_json(form)] for name, form in theorem.definitions],
            "recursion": None if theorem.recursion is None else _measured_to_json(theorem.recursion),
        },
    }


def derivation_from_json(value: Any, *, where: str = "derivation") -> Derivation:
    """Return the derivation that ``derivation_to_json`` wrote.

    Raises
    ------
    FormatError, GraphError
        See ``load_derivation``.
    """
    if not isinstance(value, dict) or value.get("format") != _FORMAT or value.get("version") != 1:
        raise FormatError(f'{where}: not a derivation; expected {{"format": "{_FORMAT}", "version": 1, ...}}')
    try:
        floor = value["token_variance"]
        return Derivation(
            graph_from_json(value["graph"], where=f"{where}: graph"),
            _expression(value["temperature"], f"{where}: temperature"),
            None if floor is None else _expression(floor, f"{where}: token_variance"),
            tuple(_lemma(v, f"{where}: lemma {k}") for k, v in enumerate(value["lemmas"])),
            _theorem(value["theorem"], f"{where}: theorem"),
        )
    except KeyError as error:
        raise FormatError(f"{where}: the field {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: malformed: {error}") from None


def _step_to_json(step: Step) -> dict[str, Any]:
    claim = step.claim
    return {
        "name": to_json(step.name),
        "quantity": step.quantity.value,
        "source": step.source,
        "target": step.target,
        "rule": step.rule,
        "premises": list(step.premises),
        "relation": claim.relation.value,
        "expression": to_json(claim.expression),
        "conditions": [c.statement for c in claim.conditions],
        "reference": [claim.reference.key, claim.reference.where],
        "measured": [_measured_to_json(m) for m in claim.measured],
        "status": claim.status.value,
    }


def _measured_to_json(measured: Measured) -> dict[str, Any]:
    return {"symbol": to_json(measured.symbol), "kind": measured.kind, "nodes": list(measured.nodes)}


def _lemma(value: dict[str, Any], where: str) -> Lemma:
    return Lemma(
        _text(value["letter"], where),
        _text(value["title"], where),
        tuple(_step(v, f"{where}, step {k}") for k, v in enumerate(value["steps"])),
        _position(value["gain"], where),
        None if value["variance"] is None else _position(value["variance"], where),
        tuple(Instance(_text(i["entry"], where), _texts(i["members"], where)) for i in value["instances"]),
    )


def _step(value: dict[str, Any], where: str) -> Step:
    key, place = _texts(value["reference"], where)
    claim = Claim(
        Relation(value["relation"]),
        _expression(value["expression"], where),
        Reference(key, place),
        _conditions(value["conditions"], where),
        tuple(_measured(m, where) for m in value["measured"]),
        Status(value["status"]),
    )
    return Step(
        _expression(value["name"], where),
        Quantity(value["quantity"]),
        _text(value["source"], where),
        _text(value["target"], where),
        _text(value["rule"], where),
        tuple(_position(p, where) for p in value["premises"]),
        claim,
    )


def _theorem(value: dict[str, Any], where: str) -> Theorem:
    return Theorem(
        _text(value["head"], where),
        tuple(_measured(m, where) for m in value["measured"]),
        _expression(value["bound"], where),
        None if value["expected"] is None else _expression(value["expected"], where),
        None if value["expected_status"] is None else Status(value["expected_status"]),
        _conditions(value["assumptions"], where),
        _conditions(value["expected_assumptions"], where),
        tuple((_expression(name, where), _expression(form, where)) for name, form in value["definitions"]),
        None if value["recursion"] is None else _measured(value["recursion"], where),
    )


def _measured(value: dict[str, Any], where: str) -> Measured:
    return Measured(_expression(value["symbol"], where), _text(value["kind"], where), _texts(value["nodes"], where))


def _conditions(values: Any, where: str) -> tuple[Condition, ...]:
    return tuple(Condition(statement) for statement in _texts(values, where))


def _expression(value: Any, where: str) -> sympy.Expr:
    made = from_json(value, where=where)
    if not isinstance(made, sympy.Expr):
        raise FormatError(f"{where}: expected an expression, got {made}")
    return made


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: expected a string, got {str(value)[:60]!r}")
    return value


def _texts(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise FormatError(f"{where}: expected a list of strings, got {str(values)[:60]!r}")
    return tuple(_text(value, where) for value in values)


def _position(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise FormatError(f"{where}: expected a position (0, 1, ...), got {str(value)[:60]!r}")
    return value
