r"""What the layer rules say and why, in LaTeX: the facts that a report states, with proofs, before its lemmas.

A rule without an entry here (a user's own) is told by its docstring.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
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


FACTS: dict[str, Fact] = {
    fact.key: fact
    for fact in (
        Fact(
            "composition",
            "Gains compose",
            r"Let $L_u$ and $L_v$ bound the gains of nodes $u$ and $v$ as functions of $x$. Chain rule: a layer of gain "
            r"$\ell$ that reads $v$ has gain at most $L_v\,\ell$. Triangle inequality: $u+v$ has gain at most "
            r"$L_u+L_v$. Concatenation: $(u,v)$ has gain at most $(L_u^2+L_v^2)^{1/2}$. The identity has gain $1$.",
            r"With $A$ the Jacobian of the layer, $\lVert A J_v\rVert\le\lVert A\rVert\,\lVert J_v\rVert$ and $\lVert "
            r"J_u+J_v\rVert\le\lVert J_u\rVert+\lVert J_v\rVert$~\cite[section 5.6]{horn2013}; the squared norm of "
            r"$(J_uh,J_vh)$ is $\lVert J_uh\rVert^2+\lVert J_vh\rVert^2$ for every vector $h$.",
        ),
        Fact(
            "growth",
            "Growths compose",
            r"Let $\mathbb{E}\lVert J_u\rVert_F^2\le C_u\,\mathbb{E}\lVert J_x\rVert_F^2$ and likewise for $v$. Chain "
            r"rule: a layer of growth $c$ that reads $v$ gives $C_v\,c$. Concatenation: $(u,v)$ has growth at most "
            r"$C_u+C_v$. Sum: $u+v$ has growth at most $(\sqrt{C_u}+\sqrt{C_v})^2$, and at most $C_u+C_v$ if "
            r"reversing the signs of all weights of some layers reverses the sign of one of $u$, $v$ and does not "
            r"change the other (we then call $u$ and $v$ orthogonal).",
            r"The first is the definition of growth; squared Frobenius norms of stacked matrices add; the general sum is "
            r"Minkowski's inequality in $L^2$ of random matrices. In the last case the reversal leaves the joint "
            r"distribution of the weights unchanged and reverses $\langle J_u,J_v\rangle$, so "
            r"$\mathbb{E}\langle J_u,J_v\rangle=0$.",
        ),
        Fact(
            "affine",
            "Affine maps",
            r"The gain of $h\mapsto Ah+b$ is $\lVert A\rVert_2$, its largest singular value. A convolution followed by batch "
            r"norm in evaluation is one affine map: the kernel's row of output channel $c$ is multiplied by "
            r"$\gamma_c/\sqrt{\mathrm{var}_c+\varepsilon}$.",
            r"$\lVert Ah-Ah'\rVert\le\lVert A\rVert_2\lVert h-h'\rVert$ with equality for $h-h'$ along a right singular "
            r"vector; a composition of affine maps is affine.",
        ),
        Fact(
            "random weights",
            "Random weights",
            r"Let $W$ have independent entries of mean zero and be independent of $J$, and let $v=\sup_u\mathbb{E}\lVert "
            r"Wu\rVert^2/\lVert u\rVert^2$. Then $\mathbb{E}\lVert WJ\rVert_F^2\le v\,\mathbb{E}\lVert J\rVert_F^2$. "
            r"For variance $s^2/\mathrm{fan}_{\mathrm{in}}$, $v\le s^2\,n/\mathrm{fan}_{\mathrm{in}}$ with $n$ the "
            r"largest number of outputs that one input feeds: all outputs for a linear map, and at most "
            r"$c_{\mathrm{out}}/\mathrm{groups}$ times the product over dimensions of $\lceil k\gcd(s,d)/s\rceil$ for "
            r"a convolution with kernel $k$, stride $s$ and dilation $d$.",
            r"Each output sums distinct independent entries, so $\mathbb{E}\lVert Wu\rVert^2$ is the sum of "
            r"$u_k^2$ times the variance of every weight that $u_k$ meets. Condition on $J$ and sum over its columns $u$.",
        ),
        Fact(
            "initial batch norm",
            "Batch norm at initialisation",
            r"Batch norm with its initial statistics and scale has growth at most $1$.",
            r"It multiplies by $(1+\varepsilon)^{-1/2}\le 1$.",
        ),
        Fact(
            "elementwise",
            "Elementwise layers",
            r"Let $\varphi$ act on every entry, with slopes in $[\alpha,\beta]$. Its gain is at most "
            r"$\max(|\alpha|,|\beta|)$ and its growth at most the square of that. If reversing the signs of all weights "
            r"of some layers reverses the sign of its input $h$ (we then call $h$ symmetric), its growth is at most "
            r"$\sup_{t>0}\tfrac12\bigl(\varphi'(t)^2+\varphi'(-t)^2\bigr)$, at every finite width.",
            r"Mean value theorem. Row $c$ of the Jacobian is multiplied by $\varphi'(h_c)$, so $\mathbb{E}\lVert "
            r"J_{\mathrm{out}}\rVert_F^2=\sum_c\mathbb{E}\,\varphi'(h_c)^2\lVert J_c\rVert^2$; if $h$ is symmetric, "
            r"$(h_c,\lVert J_c\rVert)$ and $(-h_c,\lVert J_c\rVert)$ have the same distribution.",
        ),
        Fact(
            "learned slope",
            "Learned slopes",
            r"PReLU with slopes $a_c$ on the negative half has gain $\max(1,\max_c|a_c|)$; at its initial slope $1/4$ its "
            r"growth is at most $1$, and at most $\tfrac12(1+\tfrac1{16})$ if its input is symmetric.",
            r"The slopes are $1$ and $a_c$, and both occur; growth as for elementwise layers.",
        ),
        Fact(
            "rearrangement",
            "Selections and shifts",
            r"A layer that permutes, keeps, selects or reshapes entries, adds a constant, or joins a constant has gain $1$ "
            r"and growth at most $1$ (dropout in evaluation is the identity); dropout and the identity keep the norms "
            r"of tokens.",
            r"Its Jacobian is a $0$--$1$ matrix with orthonormal rows or orthonormal columns.",
        ),
        Fact(
            "softmax layer",
            "Softmax layers",
            r"$h\mapsto\mathrm{softmax}(h/\theta)$ has gain $1/(2\theta)$, growth at most its square, and outputs of norm at "
            r"most $1$.",
            r"Its Jacobian is $S_p/\theta$. For a unit vector $u$, $u^\top S_pu$ is the variance under $p$ of a variable with "
            r"range at most $\sqrt2$, hence at most $2/4$ by Popoviciu's inequality~\cite{popoviciu1935}. "
            r"Probabilities sum to one, so their squares sum to at most one.",
        ),
        Fact(
            "layer norm",
            "Layer norm",
            r"Let $P=I-\tfrac1n\mathbf 1\mathbf 1^\top$ and let tokens have variance at least $w$. Layer norm has gain at "
            r"most $\lVert\operatorname{diag}(\gamma)P\rVert_2/\sqrt{w+\varepsilon}$, with equality for $w=0$ over all "
            r"inputs. At scale $1$ its growth is at most $1/(w+\varepsilon)$.",
            r"With $c=Ph$ and $s^2=\mathrm{var}(h)+\varepsilon$ the Jacobian is "
            r"$\operatorname{diag}(\gamma)\bigl(P-cc^\top/(ns^2)\bigr)/s$. The bracket is $P$ times a symmetric "
            r"contraction, since $\lVert c\rVert^2\le ns^2$; where $h$ is constant, $c=0$ and $s^2=\varepsilon$. The "
            r"growth follows column by column, as $\lVert P\rVert=1$.",
        ),
        Fact(
            "layer norm output",
            "Layer norm bounds its tokens",
            r"For every input, an output token of layer norm has norm at most $\sqrt n\,\lVert\operatorname{diag}(\gamma) "
            r"P\rVert_2+\lVert\beta\rVert_2$.",
            r"The normalised token $c/s$ lies in the range of $P$ and has norm "
            r"$\sqrt{n\,\mathrm{var}(h)/(\mathrm{var}(h)+\varepsilon)}<\sqrt n$.",
        ),
        Fact(
            "max pooling",
            "Max pooling",
            r"With kernel $k$, stride $s$, dilation $d$ and $m$ windows per dimension, the gain is at most the product over "
            r"dimensions of $\min(\lceil k\gcd(s,d)/s\rceil,m)^{1/2}$, and the growth at most its square.",
            r"The Jacobian $A$ selects entries, so $A^\top A$ is diagonal and counts the windows that select each one. The "
            r"window at $js$ covers the entries $js+ld$, $0\le l<k$, so an entry lies in at most that many windows. "
            r"$\lVert AJ\rVert_F\le\lVert A\rVert_2\lVert J\rVert_F$.",
        ),
        Fact(
            "average pooling",
            "Average pooling",
            r"With kernel $k$, stride $s$ and $q=\lceil k/s\rceil-1$ per dimension, the gain is at most the product over "
            r"dimensions of $\bigl(k(2q+1)-sq(q+1)\bigr)^{1/2}/k$, and the growth at most its square.",
            r"In one dimension $AA^\top$ is nonnegative and Toeplitz: windows $j$ steps apart overlap in $k-sj$ entries. Its "
            r"norm is at most its largest row sum $\bigl(k+2\sum_{j=1}^{q}(k-sj)\bigr)/k^2$; in two dimensions $A$ is "
            r"a Kronecker product. $\lVert AJ\rVert_F\le\lVert A\rVert_2\lVert J\rVert_F$.",
        ),
        Fact(
            "adaptive average pooling",
            "Adaptive average pooling",
            r"From $n$ to $m$ entries per dimension, where $m$ divides $n$ or $n$ divides $m$, the gain is the product over "
            r"dimensions of $\sqrt{m/n}$ (global pooling: $1/\sqrt{HW}$); otherwise a factor is at most "
            r"$(\lVert A\rVert_\infty\lVert A\rVert_1)^{1/2}$ for the averaging matrix $A$. The growth is at most the "
            r"square of the gain.",
            r"In the first case the windows are disjoint and of one size, or repeat single entries; the second is "
            r"Riesz--Thorin interpolation between $\ell^1$ and $\ell^\infty$. In two dimensions $A$ is a Kronecker "
            r"product. $\lVert AJ\rVert_F\le\lVert A\rVert_2\lVert J\rVert_F$.",
        ),
        Fact(
            "attention",
            "Self-attention on bounded tokens",
            r"Let $N$ tokens have norm at most $R$, $a=\max_h\lVert W_{Q,h}^\top W_{K,h}\rVert_2/\sqrt{d_h}$, "
            r"$b=Ra+\max_h\lVert W_{K,h}^\top b_{Q,h}\rVert_2/\sqrt{d_h}$, $c=N/(1+(N-1)e^{-2Rb})$ and "
            r"$l=\min(N/2,c)$. The gain of softmax self-attention is at most \[ \lVert W_O\rVert_2\Bigl(\sum_h\lVert "
            r"W_{V,h}\rVert_2^2\Bigr)^{1/2}\Bigl(aR^2+\min\bigl\{\sqrt{c\,(1+R^2b^2)},\ "
            r"\sqrt c+\sqrt l\,Rb\bigr\}\Bigr). \] Without a bound on the tokens there is none~\cite{kim2021}.",
            r"Let $P$ be the attention matrix of a head, with rows $P_i$, and $m_i$ and $\mathrm{Cov}_i$ the mean and "
            r"covariance of the tokens under $P_i$. Before $W_{V,h}$, and up to constants, $do_i=\mathrm{Cov}_iA\,dx_i+"
            r"\sum_jP_{ij}\bigl(dx_j+(x_j-m_i)\,b_i^\top dx_j\bigr)$ with $A=W_{K,h}^\top W_{Q,h}/\sqrt{d_h}$ and "
            r"$\lVert b_i\rVert\le b$; biases of the keys cancel in the softmax. The first part is block diagonal with "
            r"$\lVert\mathrm{Cov}_iA\rVert\le R^2a$. For the second, test with a unit vector $w$: Cauchy--Schwarz under "
            r"$P_i$ gives $\bigl(1+b^2\,\mathrm{Var}_i(w^\top x)\bigr)^{1/2}\bigl(\sum_jP_{ij}\lVert dx_j\rVert^2"
            r"\bigr)^{1/2}$, and summing the squares over $i$ costs the largest column sum of $P$, at most $c$ because "
            r"the logits of a row differ by at most $2Rb$. Or split it: $\lVert P\rVert_2\le\sqrt c$, and $\lVert "
            r"X^\top S_{P_i}\rVert^2\le\lVert\mathrm{Cov}_i\rVert\,\lVert S_{P_i}\rVert\le R^2\min(\tfrac12,\max_j "
            r"P_{ij})$. Finally the heads are stacked.",
        ),
        Fact(
            "attention growth",
            "Growth of self-attention (heuristic)",
            r"At random initialisation with $N$ tokens of dimension $D$, the growth of self-attention is about $2e/N+1/D$. "
            r"This is not a theorem.",
            r"The logits of a row have variance about $1$; average the softmax weights over them. Simulations agree within a "
            r"few per cent for small logits and give 25 to 40 per cent more at variance $1$.",
        ),
    )
}
"""Every fact by key."""

_ELEMENTWISE = (
    "ReLU ReLU6 LeakyReLU ELU CELU SELU GELU GELUTanh SiLU Mish Softplus Hardswish Tanh Softsign Softshrink Tanhshrink "
    "Hardtanh Sigmoid Hardsigmoid"
).split()
_REARRANGING = "Flatten Reshape Permute Dropout Identity ClassToken PositionEmbedding SelectToken".split()
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
