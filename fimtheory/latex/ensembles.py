r"""The random weights of a theorem in the mean, in print: one sentence for each initial distribution that is used."""

from __future__ import annotations

from collections.abc import Iterator

from fimtheory.claims import Quantity
from fimtheory.derivation import Derivation, body_of
from fimtheory.ensemble import Initial, Parameters
from fimtheory.graph import LayerGraph
from fimtheory.latex.facts import layer_words
from fimtheory.latex.labels import listed
from fimtheory.registry import Site, find_rule

__all__ = ["SENTENCES", "ensemble_texts"]

SENTENCES: dict[str, str] = {
    "weight": r"Weights of every {of} are independent $N(0,2/\mathrm{{fan}}_{{\mathrm{{in}}}})$~\cite{{he2015}}.",
    "attention": r"Projections of every {of} are independent $N(0,1/\mathrm{{fan}}_{{\mathrm{{in}}}})$.",
    "token": r"Entries of every {of} are independent $N(0,0.02^2)$~\cite{{dosovitskiy2021}}.",
    "zero": r"Biases and shifts of every {of} are $0$.",
    "one": r"Scales of every {of} are $1$.",
    "slope": r"Slopes of every {of} are $\tfrac14$.",
    "mean": r"Running means of every {of} are $0$.",
    "variance": r"Running variances of every {of} are $1$.",
    "mask": r"Masks of every {of} are $0$.",
}
"""How tensors start, by the name of the ``Initial``; a count of batches has no part in the function."""


def ensemble_texts(derivation: Derivation) -> tuple[str, ...]:
    """Return how the tensors of a derivation's graph start, as sentences in LaTeX."""
    graph = derivation.graph
    bodies = [body_of(graph, lemma)[0] for lemma in derivation.lemmas]
    starting: dict[str, dict[str, None]] = {}
    for each in (graph, *bodies):
        for words, parameters in _tensors(each):
            for initial in {p.initial for p in parameters} - {Initial.COUNT}:
                starting.setdefault(initial, {})[words] = None
    return tuple(
        sentence.format(of=listed([*starting[initial]]))
        for initial, sentence in SENTENCES.items()
        if initial in starting
    )


def _tensors(graph: LayerGraph) -> Iterator[tuple[str, Parameters]]:
    """Every layer that has tensors, in words, with them."""
    for node in graph.nodes:
        found = find_rule((type(node.layer),), Quantity.PARAMETERS)
        if found is not None:
            site = Site((node.layer,), (node.name,), graph.input_shapes(node.name), graph.shapes[node.name])
            yield layer_words((type(node.layer).__name__,)), found.function(site)
