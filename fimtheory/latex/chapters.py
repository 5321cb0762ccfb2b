r"""One report's content: everything the template lays out, as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from fimtheory.claims import Status
from fimtheory.derivation import Derivation, body_of
from fimtheory.latex.activations import Slopes, slopes_used
from fimtheory.latex.facts import FACTS, Fact, fact_of
from fimtheory.latex.labels import escaped, file_stem, label_key, typewriter
from fimtheory.latex.proofs import LemmaText, lemma_text
from fimtheory.latex.symbols import Names
from fimtheory.latex.tables import BlockRows, Coverage, Total, certificates, coverage, layer_rows, totals, verdict_rows
from fimtheory.latex.theorems import TheoremText, assumption_texts, theorem_text

if TYPE_CHECKING:
    from fimtheory.evaluation import Evaluation

__all__ = ["Chapter", "Verification", "chapter"]

_ENSEMBLE = (
    (
        ("Linear", "Conv2d", "PatchEmbedding"),
        "Weights of linear maps, convolutions and patch embeddings are independent and symmetric about zero, with "
        r"variance $2/\mathrm{fan}_{\mathrm{in}}$~\cite{he2015}.",
    ),
    (
        ("MultiHeadSelfAttention",),
        r"Projections of self-attention are independent $N(0,1/\mathrm{fan}_{\mathrm{in}})$.",
    ),
    (("Linear", "Conv2d", "PatchEmbedding", "MultiHeadSelfAttention"), "Biases are zero."),
    (
        ("BatchNorm2d", "LayerNorm"),
        "Norms have scale $1$ and shift $0$; batch norm has running mean $0$ and running variance $1$.",
    ),
    (
        ("ClassToken", "PositionEmbedding"),
        r"The class token and the position embeddings are independent $N(0,0.02^2)$~\cite{dosovitskiy2021}.",
    ),
    (("PReLU",), "Slopes of PReLU are $1/4$."),
)


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
class Chapter:
    """A theorem with all that a report says of it; every string is LaTeX.

    ``stem`` names its files and ``key`` begins its LaTeX labels.
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
    ensemble: tuple[str, ...]
    heuristic: bool
    facts: tuple[tuple[str, Fact], ...]
    slopes: tuple[Slopes, ...]
    lemmas: tuple[LemmaText, ...]
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
    bodies = [body_of(graph, lemma)[0] for lemma in derivation.lemmas]
    kinds = {type(node.layer).__name__ for each in (graph, *bodies) for node in each.nodes}
    expected = assumption_texts(derivation, derivation.theorem.expected_assumptions, names)
    lemmas = tuple(lemma_text(derivation, lemma, names) for lemma in derivation.lemmas)
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
        (*(sentence for layers, sentence in _ENSEMBLE if kinds.intersection(layers)), *expected),
        derivation.theorem.expected_status is Status.HEURISTIC,
        _facts(derivation),
        slopes_used(derivation),
        lemmas,
        coverage(derivation, names),
        () if evaluation is None else layer_rows(derivation, evaluation),
        () if evaluation is None else certificates(evaluation),
        () if evaluation is None else totals(evaluation),
        None if verdict is None else _verification(verdict),
    )


def _facts(derivation: Derivation) -> tuple[tuple[str, Fact], ...]:
    """Facts that the steps use, with their keys, in the order of first use; composition comes first."""
    found = {key: FACTS[key] for key in ("composition", "growth")}
    for step in derivation.steps:
        if step.rule != "assumption":
            fact = fact_of(step.rule, step.quantity)
            found.setdefault(fact.key, fact)
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
