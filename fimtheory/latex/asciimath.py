r"""Formulas as people type them in plain text, in LaTeX: ``||A u|| <= D_W/2`` as ``\lVert A u\rVert \le D_{W}/2``.

Sentences hold them between backticks.
"""

from __future__ import annotations

import re

from fimtheory.latex.labels import escaped, prose

__all__ = ["formula", "sentence"]

_WORDS = {
    **{name: rf"\{name}" for name in (
        "alpha", "beta", "gamma", "delta", "kappa", "lambda", "mu", "nu", "pi", "rho", "sigma", "tau", "phi", "psi",
        "chi", "omega", "min", "max", "sup", "log", "exp", "sin", "cos", "tanh", "arcsin", "arccos", "sum",
    )},
    "eps": r"\varepsilon", "lam": r"\lambda", "lamhat": r"\hat\lambda",
    "Lam": r"\Lambda", "KL": r"\operatorname{KL}", "E": r"\mathbb{E}",
    "diag": r"\operatorname{diag}", "tr": r"\operatorname{tr}", "grad": r"\nabla", "erf": r"\operatorname{erf}",
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d+(?:\.\d+)?)|(?P<word>[A-Za-z]+)|(?P<sign><=|>=|\|\||\.\.\.|->|[-+*/=<>|~,.;:!'()\[\]])"
    r"|(?P<script>[_^])"
)
_SIGNS = {"<=": r"\le ", ">=": r"\ge ", "<": "<", ">": ">", "*": r"\,", "...": r"\dots ", "->": r"\to ", "~": r"\sim "}
_TRANSPOSE = r"\top"
_BARS = {"||": (r"\lVert ", r"\rVert "), "|": (r"\lvert ", r"\rvert ")}


def sentence(text: str) -> str:
    r"""Return a sentence in LaTeX, with the formulas that it has between backticks.

    >>> print(sentence("At most `sqrt(2) D_W^2 / 4`, by 50%."))
    At most $\sqrt{2} D_{W}^{2} / 4$, by 50\%.
    """
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return prose(text.replace("$", "dollar "))
    return "".join(f"${formula(piece)}$" if k % 2 else prose(piece) for k, piece in enumerate(pieces))


def formula(text: str, letters: int = 1) -> str:
    r"""Return a formula in LaTeX; what is no mathematics is printed as it stands.

    A word of more than so many ``letters`` is a name, and upright; up to three are indices below.

    >>> print(formula("||T^-1 A^T|| >= sqrt p_1"))
    \lVert T^{-1} A^{\top}\rVert \ge \sqrt{p_{1}}
    """
    tokens = _tokens(text)
    made, open_bars = "", set[str]()
    while tokens:
        kind, token = tokens.pop(0)
        if kind == "script":
            what = _group(tokens)
            while token == "_" and tokens and tokens[0][1] == "'":  # x_j' is the entry of x at j'
                what += tokens.pop(0)[1]
            twice = "{}" if token == "^" and re.search(r"\^\{[^{}]*\}$", made) else ""
            made = (
                made.rstrip() + twice + f"{token}{{{_TRANSPOSE if (token, what) == ('^', 'T') else formula(what, 3)}}}"
            )
        elif token == "sqrt":
            while tokens and tokens[0][0] == "space":
                tokens.pop(0)
            bracket = bool(tokens) and tokens[0][1] == "("
            inner = _group(tokens)
            while not bracket and tokens and tokens[0][0] == "script":
                inner += f"{tokens.pop(0)[1]}({_group(tokens)})"
            made += rf"\sqrt{{{formula(inner)}}}"
        elif kind == "word":
            made += _WORDS.get(token, token if len(token) <= letters else rf"\mathrm{{{token}}}")
            made += r"\ " if made.endswith("}") and [kind for kind, _ in tokens[:2]] == ["space", "word"] else ""
            made += " " if made[-1].isalpha() and tokens and tokens[0][0] in ("word", "number") else ""
        elif token in _BARS:
            made = made.rstrip() if token in open_bars else made
            made += _BARS[token][token in open_bars]
            open_bars ^= {token}
        elif token == "." and made.endswith(" ") and tokens and tokens[0][0] == "space":
            made += r"\cdot "
        elif kind == "other":
            made += rf"\textnormal{{{escaped(token)}}}"
        else:
            made += " " if kind == "space" else _SIGNS.get(token, token)
    return re.sub(r" +", " ", made).strip()


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = list[tuple[str, str]](), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        kind, token = (match.lastgroup or "", match.group()) if match else ("other", text[at])
        found.append((kind, token))
        at += len(token)
    return found


def _group(tokens: list[tuple[str, str]]) -> str:
    """Take what an index, an exponent or a root applies to: a bracket without its ends, or one token with its sign."""
    if not tokens:
        return ""
    _, first = tokens.pop(0)
    if first == "-" and tokens:
        return first + tokens.pop(0)[1]
    if first != "(":
        while len(tokens) > 1 and tokens[0][1] == "," and tokens[1][0] in ("word", "number"):
            first += "," + tokens[1][1]
            del tokens[:2]
        return first
    depth, inner = 1, ""
    while tokens and depth:
        _, token = tokens.pop(0)
        depth += (token == "(") - (token == ")")
        inner += token if depth else ""
    return inner
