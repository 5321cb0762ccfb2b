r"""Slopes of the elementwise layers that a derivation uses, in print, and why they are what they are."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import cast, final

import sympy

from fimtheory.claims import Quantity
from fimtheory.derivation import Derivation, body_of
from fimtheory.latex.facts import fact_of, layer_words
from fimtheory.latex.labels import prose
from fimtheory.latex.printer import Printer, number
from fimtheory.layers import Layer
from fimtheory.registry import Site, find_rule

__all__ = ["Slopes", "slopes_used"]

_REASONS = {
    "ReLU": r"$\varphi'\in\{0,1\}$",
    "ReLU6": r"$\varphi'\in\{0,1\}$",
    "LeakyReLU": r"$\varphi'$ is $1$ or the negative slope",
    "ELU": r"$\varphi'$ is $1$ or $\alpha e^{t}$ with $t\le 0$",
    "CELU": r"$\varphi'$ is $1$ or $e^{t/\alpha}$ with $t\le 0$",
    "SELU": r"$\varphi'$ is $s$ or $s\alpha e^{t}$ with $t\le 0$",
    "GELU": r"$\kappa=\tfrac12(1+\operatorname{erf}1)+\tfrac1{e\sqrt\pi}$; $\varphi'(t)=\Phi(t)+t\Phi'(t)$ is largest "
    r"at $t=\sqrt2$, and $\varphi'(-t)=1-\varphi'(t)$",
    "GELUTanh": r"$\varphi'(-t)=1-\varphi'(t)$; supremum rounded up, by interval arithmetic",
    "SiLU": r"$\varphi'(-t)=1-\varphi'(t)$; supremum rounded up, by interval arithmetic",
    "Mish": "extrema rounded outwards, by interval arithmetic",
    "Softplus": r"$\varphi'(t)=1/(1+e^{-\beta t})$",
    "Hardswish": r"$\varphi'(t)=t/3+\tfrac12$ for $|t|<3$, else $0$ or $1$",
    "Tanh": r"$\varphi'=1-\varphi^2$",
    "Softsign": r"$\varphi'(t)=(1+|t|)^{-2}$",
    "Softshrink": r"$\varphi'\in\{0,1\}$",
    "Tanhshrink": r"$\varphi'=\tanh^2$",
    "Hardtanh": r"$\varphi'\in\{0,1\}$",
    "Clamp": r"$\varphi'\in\{0,1\}$",
    "Threshold": r"$\varphi'\in\{0,1\}$",
    "Abs": r"$\varphi'\in\{-1,1\}$",
    "Sin": r"$\varphi'=\cos$",
    "Cos": r"$\varphi'=-\sin$",
    "Erf": r"$\varphi'(t)=2e^{-t^2}/\sqrt\pi$",
    "Atan": r"$\varphi'(t)=1/(1+t^2)$",
    "LogSigmoid": r"$\varphi'(t)=1/(1+e^t)$",
    "QuickGELU": r"$\varphi'(t)=\psi'(1.702\,t)$ with $\psi$ the SiLU",
    "Sigmoid": r"$\varphi'=\varphi(1-\varphi)$",
    "Hardsigmoid": r"$\varphi'\in\{0,\tfrac16\}$",
}

"""Why the slopes are what they are; of any other layer, what its docstring says it computes."""

_SETTINGS = {"negative_slope": r"\text{negative slope}", "alpha": r"\alpha"}


@final
@dataclass(frozen=True, slots=True)
class Slopes:
    """An elementwise layer, its interval of slopes and the reason; every field is LaTeX."""

    layer: str
    interval: str
    reason: str


def slopes_used(derivation: Derivation) -> tuple[Slopes, ...]:
    """Return the slopes of every elementwise layer of a derivation, once."""
    found: dict[Layer, None] = {}
    for lemma in derivation.lemmas:
        body, _, _ = body_of(derivation.graph, lemma)
        for step in lemma.steps:
            if step.quantity is Quantity.GAIN and fact_of(step.rule, step.quantity).key == "elementwise":
                found[body.layer(step.target)] = None
    return tuple(_slopes(layer) for layer in found)


def _slopes(layer: Layer) -> Slopes:
    rule = find_rule((type(layer),), Quantity.SLOPES)
    assert rule is not None, "an elementwise layer has an interval of slopes"
    kind = type(layer).__name__
    interval: sympy.Tuple = rule.function(Site((layer,), ("f",), (), ())).expression
    printer = Printer({}, {})
    low, high = (printer.doprint(end) for end in interval)
    about = "" if all(end.is_Rational for end in interval) else rf"\approx[{_rounded(interval)}]"
    words = layer_words((kind,))
    settings = [
        f"{text}={number(sympy.Rational(getattr(layer, n)))}" for n, text in _SETTINGS.items() if hasattr(layer, n)
    ]
    if settings:
        words += f" (${', '.join(settings)}$)"
    reason = _REASONS.get(kind) or prose((inspect.getdoc(type(layer)) or "").partition("\n")[0])
    return Slopes(words, f"$[{low},\\allowbreak\\, {high}]{about}$", reason)


def _rounded(interval: sympy.Tuple) -> str:
    return r",\, ".join(f"{float(cast('sympy.Expr', end)):.4f}" for end in interval)
