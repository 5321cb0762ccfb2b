r"""What the layer rules say and why, in LaTeX: the facts that a report states, with proofs, before its lemmas.

A rule that no fact of ``templates/facts.tex`` names is told by its docstring.
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
from fimtheory.registry import Rule, rule_named, rules
from fimtheory.rules.activations import ACTIVATIONS

__all__ = ["FACTS", "Fact", "described", "fact_of", "layer_words"]


@final
@dataclass(frozen=True, slots=True)
class Fact:
    """A statement about layers with its proof, both LaTeX; ``argument`` calls the proof what it is.

    ``rules`` names the functions of ``fimtheory.rules`` that claim it.
    """

    key: str
    title: str
    statement: str
    proof: str
    argument: str = "Proof"
    rules: tuple[str, ...] = ()


_ENTRY = re.compile(
    r"%%% (?P<key>.+): (?P<title>.+)\n"
    r"(?P<rules>(?:%%% rules: .+\n)*)"
    r"(?P<statement>(?:(?!%%%).*\n)+)"
    r"%%% (?P<argument>[A-Z]\w+)\n"
    r"(?P<proof>(?:(?!%%%).*\n)+)"
)


def _facts() -> Iterator[Fact]:
    """Read ``templates/facts.tex``."""
    text = resources.files("fimtheory").joinpath("templates", "facts.tex").read_text(encoding="utf-8")
    for found in _ENTRY.finditer(text):
        statement, proof = found["statement"].strip(), found["proof"].strip()
        functions = tuple(re.findall(r"\w+\.\w+", found["rules"]))
        yield Fact(found["key"], found["title"], statement, proof, found["argument"], functions)


FACTS: dict[str, Fact] = {fact.key: fact for fact in _facts()}
"""Every fact of ``templates/facts.tex`` by key."""
_OF_FUNCTION = {f"fimtheory.rules.{name}": fact for fact in FACTS.values() for name in fact.rules}
_WORDS = {
    **{kind.__name__: kind.__name__ for kind in ACTIVATIONS},
    "PReLU": "PReLU",
    "Linear": "linear map",
    **{f"Conv{n}d": "convolution" for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": "transposed convolution" for n in (1, 2, 3)},
    "PatchEmbedding": "patch embedding",
    "MultiHeadSelfAttention": "self-attention",
    **{f"BatchNorm{n}d": "batch norm" for n in (1, 2, 3)},
    **dict.fromkeys(("LayerNorm", "LayerNormOver"), "layer norm"),
    "RMSNorm": "RMS norm",
    "GroupNorm": "group norm",
    "LocalResponseNorm": "local response normalisation",
    "GlobalResponseNorm": "global response normalisation",
    "GELUTanh": "GELU (tanh)",
    **{f"MaxPool{n}d": "max pooling" for n in (1, 2, 3)},
    **{f"AdaptiveMaxPool{n}d": "adaptive max pooling" for n in (1, 2, 3)},
    "LpPool2d": "pooling by a norm",
    **{f"AvgPool{n}d": "average pooling" for n in (1, 2, 3)},
    **{f"AdaptiveAvgPool{n}d": "average pooling" for n in (1, 2, 3)},
    "Pad": "padding",
    "Upsample": "interpolation",
    **dict.fromkeys(("PixelShuffle", "PixelUnshuffle"), "pixel shuffle"),
    "Unfold": "windows side by side",
    "Fold": "sum of windows",
    "Flatten": "flattening",
    "Reshape": "reshaping",
    "Permute": "permutation",
    "Dropout": "dropout in evaluation",
    "Identity": "identity",
    "ClassToken": "class token",
    "PositionEmbedding": "position embedding",
    "SelectToken": "selection of a token",
    **dict.fromkeys(("Softmax", "SoftmaxOver"), "softmax"),
    "LogSoftmax": "log-softmax",
    "Slice": "slice",
    "Select": "selection of an entry",
    "IndexSelect": "selection of entries",
    "Flip": "reversal",
    "Roll": "rotation of entries",
    "Expand": "repetition",
    "Tile": "repetition",
    "RepeatInterleave": "repetition",
    "Scale": "factor",
    "Shift": "shift",
    "AddConstant": "sum with a constant",
    "MultiplyConstant": "constant factors",
    "ConcatConstant": "joined constant",
    "MatmulConstant": "product with a constant matrix",
    "Mean": "mean",
    "Sum": "sum",
    "Amax": "maximum",
    "LogSumExp": "log-sum-exp",
    "L2Normalize": "division by the norm",
    "Multiply": "product",
    "Gate": "gate",
    "MatMul": "product of matrices",
    "ScaledDotProductAttention": "attention",
}
"""Layer types in words; any other is called by the name of its type."""
_IN_FRONT = ("LayerNorm", "RMSNorm")
"""Types that are folded into the layer after them."""


def layer_words(kinds: tuple[str, ...]) -> str:
    """Return a run of layer types in words, as LaTeX.

    >>> layer_words(("Conv2d", "BatchNorm2d"))
    'convolution with batch norm folded in'
    >>> layer_words(("LayerNorm", "MultiHeadSelfAttention"))
    'self-attention with layer norm folded in'
    """
    words = [_WORDS.get(kind) or typewriter(kind) for kind in kinds]
    if kinds[0] in _IN_FRONT:
        words = [*words[1:], words[0]]
    return words[0] if len(words) == 1 else f"{words[0]} with {' and '.join(words[1:])} folded in"


_BLOCK = re.compile(r"::\n\s*\n((?: +\S.*\n?)+)")


def fact_of(rule: str, quantity: Quantity) -> Fact:
    """Return the fact behind a step: that of its inference rule or of its layer rule."""
    found = rule_named(rule)
    if found is None and rule in FACTS:
        return FACTS[rule]
    if found is None:
        return FACTS["growth" if quantity is Quantity.JACOBIAN_VARIANCE else "composition"]
    return _OF_FUNCTION.get(f"{found.function.__module__}.{found.function.__name__}") or described(found)


def described(rule: Rule) -> Fact:
    """Return what a rule's docstring says of it, and of all rules that share the docstring."""
    text = inspect.getdoc(rule.function)
    if text is None:
        told, alike = "Its author gives no statement.", [rule]
    else:
        told = text.split(">>>")[0]
        alike = [r for r in rules() if r.quantity is rule.quantity and inspect.getdoc(r.function) == text]
    statement, _, proof = told.partition("Proof:")
    quantity = "growth" if rule.quantity is Quantity.JACOBIAN_VARIANCE else rule.quantity.value
    kinds = dict.fromkeys(layer_words(tuple(t.__name__ for t in each.types)) for each in alike)
    return Fact(
        alike[0].name,
        f"The {quantity} of {', '.join(kinds)}",
        _typeset(statement),
        _typeset(proof) or "Given with the rule.",
    )


def _typeset(text: str) -> str:
    """Return part of a docstring as LaTeX: double backquotes and blocks of code are in typewriter type."""
    text = _BLOCK.sub(lambda block: f": ``{block[1].strip()}``\n", text)
    text = " ".join(text.split()).removesuffix("Conditions: none.").strip()
    pieces = (text[:1].upper() + text[1:]).split("``")
    return "".join(typewriter(piece) if k % 2 else prose(piece) for k, piece in enumerate(pieces))
