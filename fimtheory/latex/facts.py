r"""What the layer rules say and why, in LaTeX: the facts that a report states, with proofs, before its lemmas.

A rule without an entry here (a user's own) is told by its docstring.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import final

from fimtheory.claims import Quantity
from fimtheory.latex.labels import prose, typewriter
from fimtheory.registry import Rule, rule_named

__all__ = ["FACTS", "Fact", "described", "fact_of", "layer_words"]


@final
@dataclass(frozen=True, slots=True)
class Fact:
    """A statement about layers with its proof, both LaTeX."""

    key: str
    title: str
    statement: str
    proof: str


def _facts() -> Iterator[Fact]:
    """Read ``templates/facts.tex``, whose lines ``%%% key: title`` and ``%%% proof`` begin statements and proofs."""
    text = resources.files("fimtheory").joinpath("templates", "facts.tex").read_text(encoding="utf-8")
    _, *entries = re.split(r"^%%% (?!proof$)", text, flags=re.MULTILINE)
    for entry in entries:
        heading, _, rest = entry.partition("\n")
        key, _, title = heading.partition(": ")
        statement, _, proof = rest.partition("\n%%% proof\n")
        yield Fact(key, title, statement.strip(), proof.strip())


FACTS: dict[str, Fact] = {fact.key: fact for fact in _facts()}
"""Every fact by key."""

_ELEMENTWISE = (
    "ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "GELUTanh", "SiLU", "Mish", "Softplus", "Hardswish",
    "Tanh", "Softsign", "Softshrink", "Tanhshrink", "Hardtanh", "Sigmoid", "Hardsigmoid",
)  # fmt: skip
_REARRANGING = (
    "Flatten", "Reshape", "Permute", "Dropout", "Identity", "ClassToken", "PositionEmbedding", "SelectToken",
)  # fmt: skip
_KEYS: dict[str, str] = {
    **dict.fromkeys(("series", "sum", "concat", "identity"), "composition"),
    **{f"gain[{kind}]": "affine" for kind in ("Linear", "Conv2d", "PatchEmbedding", "BatchNorm2d")},
    "gain[Conv2d, BatchNorm2d]": "affine",
    **{f"jacobian variance[{kind}]": "random weights" for kind in ("Linear", "Conv2d", "PatchEmbedding")},
    "jacobian variance[BatchNorm2d]": "initial batch norm",
    "token norm[LayerNorm]": "layer norm output",
    "gain[MultiHeadSelfAttention]": "attention",
    "jacobian variance[MultiHeadSelfAttention]": "attention growth",
    "token norm[Softmax]": "softmax layer",
    **{f"token norm[{kind}]": "rearrangement" for kind in ("Dropout", "Identity")},
    **{
        f"{quantity}[{kind}]": key
        for quantity in ("gain", "jacobian variance")
        for key, kinds in (
            ("elementwise", _ELEMENTWISE),
            ("rearrangement", _REARRANGING),
            ("learned slope", ("PReLU",)),
            ("softmax layer", ("Softmax",)),
            ("layer norm", ("LayerNorm",)),
            ("max pooling", ("MaxPool2d",)),
            ("average pooling", ("AvgPool2d",)),
            ("adaptive average pooling", ("AdaptiveAvgPool2d",)),
        )
        for kind in kinds
    },
}
"""Fact behind each built-in rule, by the rule's name."""
_WORDS = {
    "Linear": "linear map",
    "Conv2d": "convolution",
    "PatchEmbedding": "patch embedding",
    "MultiHeadSelfAttention": "self-attention",
    "BatchNorm2d": "batch norm",
    "LayerNorm": "layer norm",
    "GELUTanh": "GELU (tanh)",
    "MaxPool2d": "max pooling",
    "AvgPool2d": "average pooling",
    "AdaptiveAvgPool2d": "average pooling",
    "Flatten": "flattening",
    "Reshape": "reshaping",
    "Permute": "permutation",
    "Dropout": "dropout in evaluation",
    "Identity": "identity",
    "ClassToken": "class token",
    "PositionEmbedding": "position embedding",
    "SelectToken": "selection of a token",
    "Softmax": "softmax",
    **{kind: kind for kind in (*_ELEMENTWISE, "PReLU") if kind != "GELUTanh"},
}


def layer_words(kinds: tuple[str, ...]) -> str:
    """Return a run of layer types in words, as LaTeX.

    >>> layer_words(("Conv2d", "BatchNorm2d"))
    'convolution with batch norm folded in'
    """
    words = [_WORDS.get(kind) or typewriter(kind) for kind in kinds]
    return words[0] if len(words) == 1 else f"{words[0]} with {' and '.join(words[1:])} folded in"


def fact_of(rule: str, quantity: Quantity) -> Fact:
    """Return the fact behind a step: that of its inference rule or of its layer rule."""
    key = _KEYS.get(rule)
    if key is not None:
        composes_growth = key == "composition" and quantity is Quantity.JACOBIAN_VARIANCE
        return FACTS["growth" if composes_growth else key]
    found = rule_named(rule)
    return FACTS["growth"] if found is None else described(found)


def described(rule: Rule) -> Fact:
    """Return what a rule's docstring says of it."""
    kinds = tuple(t.__name__ for t in rule.types)
    text = inspect.getdoc(rule.function) or "Its author gives no statement."
    told = text.split(">>>")[0].replace("``", "").strip()
    statement, _, proof = told.partition("Proof:")
    quantity = {"jacobian variance": "growth"}.get(rule.quantity.value, rule.quantity.value)
    return Fact(
        rule.name,
        f"The {quantity} of {layer_words(kinds)}",
        prose(" ".join(statement.split())),
        prose(" ".join(proof.split())) or "Given with the rule.",
    )
