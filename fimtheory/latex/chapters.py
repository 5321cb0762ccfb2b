r"""One report's content: everything the template lays out, as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from fimtheory.claims import Quantity, Status
from fimtheory.derivation import Derivation
from fimtheory.latex.activations import Slopes, slopes_used
from fimtheory.latex.ensembles import ensemble_texts
from fimtheory.latex.facts import FACTS, Fact, fact_of
from fimtheory.latex.labels import escaped, file_stem, label_key, listed, typewriter
from fimtheory.latex.proofs import LemmaText, Part, lemma_text, part_text
from fimtheory.latex.symbols import VALUES_WORDS, Names
from fimtheory.latex.tables import BlockRows, Coverage, Total, certificates, coverage, layer_rows, totals, verdict_rows
from fimtheory.latex.theorems import Bound, TheoremText, assumption_texts, mean_text, theorem_text

if TYPE_CHECKING:
    from fimtheory.evaluation import Evaluation

__all__ = ["Chapter", "Verification", "chapter"]


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """A verdict in print: its numbers, and the sentences around them."""

    target: str
    setting: str
    rows: tuple[Total, ...]
    conclusion: str
    seconds: str


@final
@dataclass(frozen=True, slots=True)
class Mean:
    """The second theorem, in the mean over random weights, with all that it needs beyond the first; all is LaTeX."""

    theorem: Bound
    status: str
    heuristic: bool
    ensemble: tuple[str, ...]
    facts: tuple[tuple[str, Fact], ...]
    lemmas: tuple[Part, ...]


@final
@dataclass(frozen=True, slots=True)
class Chapter:
    """The theorems about a graph with all that a report says of them; every string is LaTeX.

    ``stem`` names its files and ``key`` begins its LaTeX labels; ``values`` says what the names of bounds on values
    mean, and ``without_variance`` lists the layer types for lack of whose rules there is no ``mean``.
    """

    stem: str
    key: str
    name: str
    layers: int
    steps: int
    input_shape: str
    temperature: str
    theorem: TheoremText
    assumptions: tuple[str, ...]
    values: str
    facts: tuple[tuple[str, Fact], ...]
    slopes: tuple[Slopes, ...]
    lemmas: tuple[LemmaText, ...]
    mean: Mean | None
    without_variance: str
    coverage: tuple[Coverage, ...]
    blocks: tuple[BlockRows, ...]
    certificates: tuple[str, ...]
    totals: tuple[Total, ...]
    verification: Verification | None


def chapter(
    derivation: Derivation, evaluation: Evaluation | None = None, verdict: Mapping[str, Any] | None = None
) -> Chapter:
    """Return the content of a report on a derivation that the kernel has replayed.

    Parameters
    ----------
    derivation : Derivation
    evaluation : Evaluation or None
        Its bounds on given weights.
    verdict : mapping or None
        A verdict as ``fimtheory verify --json`` prints it.
    """
    graph, names = derivation.graph, Names(derivation)
    printer = names.printer()
    quantities = {step.quantity for step in derivation.steps}
    told = [words for quantity, words in VALUES_WORDS.items() if quantity in quantities]
    lacking = [typewriter(kind) for kind in derivation.without_variance]
    return Chapter(
        file_stem(graph.name),
        label_key(graph.name),
        typewriter(graph.name),
        len(graph) - 1,
        len(derivation.steps),
        r" \times ".join(printer.doprint(size) for size in graph.shapes[graph.input]),
        printer.doprint(derivation.temperature),
        theorem_text(derivation, names),
        assumption_texts(derivation, derivation.assumptions, names),
        listed(told) if told else "",
        _facts(derivation, growth=False),
        slopes_used(derivation),
        tuple(lemma_text(derivation, lemma, names) for lemma in derivation.lemmas),
        _mean(derivation, names),
        listed(lacking) if lacking else "",
        coverage(derivation, names),
        () if evaluation is None else layer_rows(derivation, evaluation),
        () if evaluation is None else certificates(evaluation),
        () if evaluation is None else totals(evaluation),
        None if verdict is None else _verification(verdict),
    )


def _mean(derivation: Derivation, names: Names) -> Mean | None:
    theorem, bound = derivation.theorem, mean_text(derivation, names)
    if bound is None or theorem.expected_status is None:
        return None
    return Mean(
        bound,
        theorem.expected_status.value,
        theorem.expected_status is Status.HEURISTIC,
        (*ensemble_texts(derivation), *assumption_texts(derivation, theorem.expected_assumptions, names)),
        _facts(derivation, growth=True),
        tuple(
            part_text(derivation, lemma, lemma.variance, names)
            for lemma in derivation.lemmas
            if lemma.variance is not None
        ),
    )


def _facts(derivation: Derivation, *, growth: bool) -> tuple[tuple[str, Fact], ...]:
    """Facts that the steps about gains and values, or about growth, use, with their keys; composition comes first."""
    first = FACTS["growth" if growth else "composition"]
    found = {first.key: first}
    for step in derivation.steps:
        if step.rule != "assumption" and (step.quantity is Quantity.JACOBIAN_VARIANCE) is growth:
            fact = fact_of(step.rule, step.quantity)
            found.setdefault(fact.key, fact)
    if derivation.theorem.recursion is not None and not growth:
        found["stack"] = FACTS["stack"]
    return tuple((label_key(key), fact) for key, fact in found.items())


def _verification(verdict: Mapping[str, Any]) -> Verification:
    shape = r" \times ".join(str(size) for size in verdict["input_shape"])
    violations, looseness, proof = verdict["violations"], verdict["looseness_log10"], verdict["derivation"]
    outcome = "No value exceeds the bound" if violations == 0 else rf"\textbf{{{violations} values exceed the bound}}"
    apart = "" if looseness is None else f"; the largest is ${looseness:.2f}$ decades below it"
    replayed = "have been" if proof["checked"] else "have not been"
    seconds = ", ".join(f"{escaped(stage)} {value:.1f}" for stage, value in verdict["seconds"].items())
    return Verification(
        typewriter(str(verdict["target"])),
        rf"input ${shape}$, $K={verdict['classes']}$, seed {verdict['seed']}",
        verdict_rows(verdict),
        f"{outcome}{apart}. The {proof['lemmas']} lemmas and {proof['steps']} steps of the proof {replayed} replayed "
        "by the kernel.",
        seconds,
    )
