"""Hypothesis strategies: random layer graphs of every type, and random and adversarial weights for them."""

from __future__ import annotations

import sympy
import torch
from drawn import CONSTANTS, MOVEMENT, REDUCTIONS, constant, movement, reduction
from drawn_products import PRODUCTS, hidden, product_of_branches
from drawn_windows import CONVOLVING, NORMS, POOLS, RESAMPLING, convolution, normalisation, pooling, resampling
from hypothesis import strategies as st

import fimtheory as ft
from fimtheory import layers
from fimtheory.ensemble import Initial
from fimtheory.registry import require_rule

ELEMENTWISE = (
    *(layers.ReLU, layers.ReLU6, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.CELU, layers.SELU, layers.GELU),
    *(layers.GELUTanh, layers.SiLU, layers.Mish, layers.Softplus, layers.Tanh, layers.Sigmoid, layers.Hardtanh),
    *(layers.Hardsigmoid, layers.Hardswish, layers.Softsign, layers.Softshrink, layers.Tanhshrink, layers.Dropout),
    *(layers.Identity, layers.Clamp, layers.Threshold, layers.LogSigmoid, layers.QuickGELU, layers.Abs, layers.Sin),
    *(layers.Cos, layers.Erf, layers.Atan),
)
IMAGE_LAYERS = (
    *CONVOLVING,
    *RESAMPLING,
    layers.PatchEmbedding,
    *POOLS,
)
TOKEN_LAYERS = (layers.MultiHeadSelfAttention, layers.ClassToken, layers.PositionEmbedding, layers.SelectToken)
ANY_SHAPE = (*NORMS, layers.Softmax, layers.Flatten, layers.Reshape, layers.Permute, layers.Linear)
OVER_A_DIMENSION = (layers.SoftmaxOver, layers.LogSoftmax)
REACHED = {*ELEMENTWISE, *IMAGE_LAYERS, *TOKEN_LAYERS, *ANY_SHAPE, *MOVEMENT, *CONSTANTS, *REDUCTIONS}
REACHED |= {*OVER_A_DIMENSION, *PRODUCTS, layers.Add, layers.Concat, layers.Input}

MOST_ENTRIES = 96
"""Most numbers that flow along an edge of a random graph: dense Jacobians stay small."""


def numel(shape):
    return int(sympy.prod(shape))


# ---- layers -----------------------------------------------------------------------------------------------------


@st.composite
def elementwise(draw, shape):
    kind = draw(st.sampled_from(ELEMENTWISE))
    if kind is layers.LeakyReLU:
        return layers.LeakyReLU(draw(st.sampled_from([0.01, 0.2, 1.0, 3.0, -0.5, -2.0, 0.0])))
    if kind is layers.PReLU:
        return layers.PReLU(draw(st.sampled_from([1, shape[0]])))
    if kind is layers.ELU:
        return layers.ELU(draw(st.sampled_from([1.0, 0.3, 2.5, 0.0, -1.5])))
    if kind is layers.CELU:
        return layers.CELU(draw(st.sampled_from([1.0, 0.1, 5.0])))
    if kind is layers.Softplus:
        return layers.Softplus(draw(st.sampled_from([1.0, 0.2, 30.0])))
    if kind is layers.Hardtanh:
        return layers.Hardtanh(*draw(st.sampled_from([(-1.0, 1.0), (0.0, 2.0), (-3.0, -1.0)])))
    if kind is layers.Clamp:
        return layers.Clamp(*draw(st.sampled_from([(0.5, None), (None, 0.0), (-1.0, 1.0), (-2.0, 0.5)])))
    if kind is layers.Threshold:
        at = draw(st.sampled_from([0.0, -1.0, 0.5]))
        return layers.Threshold(at, at)
    if kind is layers.Softshrink:
        return layers.Softshrink(draw(st.sampled_from([0.5, 0.0, 2.0])))
    return kind()


def _pair(draw, least, most):
    return draw(st.integers(least, most)), draw(st.integers(least, most))


@st.composite
def single(draw, shape):
    """One layer of one input that takes ``shape``, other than attention."""
    kinds = ["elementwise"] * 3 + ["norm"] * 2 + ["softmax", "move", "entries", "constant", "reduction"]
    if len(shape) == 3:
        kinds += ["patch"]
    if len(shape) in (2, 3, 4):
        kinds += ["conv", "pool"] * len(shape) + ["resampling"]
    if len(shape) <= 2:
        kinds += ["linear"] * 3
    if len(shape) == 2:
        kinds += ["token", "position", "select"]
    kind = draw(st.sampled_from(kinds))
    match kind:
        case "elementwise":
            return draw(elementwise(shape))
        case "norm":
            return draw(normalisation(shape))
        case "softmax":
            dim = draw(st.integers(0, len(shape) - 1))
            over = [kind(dim) for kind in OVER_A_DIMENSION]
            return draw(st.sampled_from([*(layers.Softmax(t) for t in (1.0, 0.1, 7.0)), *over]))
        case "conv":
            return draw(convolution(shape))
        case "resampling":
            return draw(resampling(shape))
        case "pool":
            return draw(pooling(shape))
        case "patch":
            sides = [p for p in (1, 2, 3) if shape[1] % p == 0 and shape[2] % p == 0]
            return layers.PatchEmbedding(shape[0], draw(st.integers(2, 4)), draw(st.sampled_from(sides)))
        case "linear":
            return layers.Linear(shape[-1], draw(st.integers(1, 6)), draw(st.booleans()))
        case "token":
            return layers.ClassToken(shape[1])
        case "position":
            return layers.PositionEmbedding(*shape)
        case "select":
            return layers.SelectToken(draw(st.integers(0, shape[0] - 1)))
        case "entries":
            return draw(movement(shape))
        case "constant":
            return draw(constant(shape))
        case "reduction":
            return draw(reduction(shape))
        case "move":
            return draw(moving(shape))
    raise AssertionError(kind)


@st.composite
def moving(draw, shape):
    """Flatten, permute or reshape."""
    if len(shape) == 1 or draw(st.booleans()):
        n = numel(shape)
        rows = draw(st.sampled_from([r for r in range(1, n + 1) if n % r == 0]))
        return layers.Reshape((rows, n // rows) if draw(st.booleans()) else (rows, n // rows, 1))
    return layers.Permute(tuple(draw(st.permutations(range(len(shape))))))


# ---- graphs -----------------------------------------------------------------------------------------------------


class Growing:
    """A graph under construction: adds layers whose output is small enough, under fresh names."""

    def __init__(self, draw, most):
        self.draw = draw
        self.left = most
        self.nodes = []
        self.shapes = {}
        self.block = ""

    def add(self, layer, *inputs):
        name = f"{self.block}.n{len(self.nodes)}" if self.block else f"n{len(self.nodes)}"
        self.nodes.append(ft.Node(name, layer, inputs, self.block))
        self.left -= 1
        self.shapes[name] = self._shape(layer, inputs)
        return name

    def _shape(self, layer, inputs):
        shapes = tuple(self.shapes[i] for i in inputs)
        site = ft.Site((layer,), ("new",), shapes, ())
        rule = require_rule(layer, ft.Quantity.SHAPE, "new")
        return tuple(int(size) for size in rule.function(site))

    def try_add(self, layer, source):
        """Add the layer unless its output would be too large; return the node to go on from."""
        if numel(self._shape(layer, (source,))) > MOST_ENTRIES:
            return source
        return self.add(layer, source)

    def attention(self, source, residual):
        """Layer norm, attention (a multiple of the heads wide), and perhaps a shortcut around both."""
        dim = self.shapes[source][1]
        heads = self.draw(st.sampled_from([h for h in (1, 2, 3) if dim % h == 0]))
        inner = self.add(layers.LayerNorm(dim, self.draw(st.sampled_from([1e-5, 1e-1]))), source)
        if self.draw(st.booleans()):
            inner = self.add(layers.Dropout(0.1), inner)
        inner = self.add(layers.MultiHeadSelfAttention(dim, heads, self.draw(st.booleans())), inner)
        return self.add(layers.Add(), *self.draw(st.permutations([source, inner]))) if residual else inner

    def shortcut(self, source):
        """A residual or dense region: one or two branches from ``source``, joined with it or with one another."""
        branches = [self.branch(source) for _ in range(self.draw(st.integers(1, 2)))]
        if self.draw(st.booleans()):
            branches.append(source)
        shape = self.shapes[branches[0]]
        joined = [b for b in branches if self.shapes[b] == shape]
        if self.draw(st.booleans()):
            name = self.add(layers.Add(), *joined)
        else:
            most = max(1, MOST_ENTRIES // numel(shape))
            name = self.add(layers.Concat(self.draw(st.integers(0, len(shape) - 1))), *joined[:most])
        read = {source for node in self.nodes for source in node.inputs}
        return name, [b for b in dict.fromkeys(branches) if b not in read]

    def branch(self, source):
        """One to three layers, mostly of unchanged shape."""
        here = source
        for _ in range(self.draw(st.integers(1, 3))):
            shape = self.shapes[here]
            if len(shape) == 3 and self.draw(st.booleans()):
                here = self.add(self.draw(convolution(shape, same=True)), here)
            elif len(shape) <= 2 and self.draw(st.booleans()):
                here = self.add(layers.Linear(shape[-1], shape[-1], self.draw(st.booleans())), here)
            else:
                here = self.add(self.draw(elementwise(shape)), here)
        return here


@st.composite
def layer_graphs(draw, most=12, image=None, blocks=None, products=False):
    """Random classifiers of up to about ``most`` layers; dense Jacobians of them are small.

    ``image`` fixes whether inputs are images, ``blocks`` whether nodes carry block names; ``products`` says whether to
    draw layers whose gain rests on bounds on values.
    """
    g = Growing(draw, most)
    image = draw(st.booleans()) if image is None else image
    named = draw(st.booleans()) if blocks is None else blocks
    if image:
        volume = draw(st.integers(0, 4)) == 0
        shape = draw(st.integers(1, 3)), *_pair(draw, 2, 5)
        shape = (shape[0], 2, *_pair(draw, 2, 4)) if volume else shape
    else:
        shape = draw(st.sampled_from([(3,), (6,), (12,), (2, 4), (3, 6), (4, 3)]))
    here = g.add(layers.Input(shape))
    for number in range(draw(st.integers(0, most - 2))):
        if g.left <= 3:
            break
        if named and draw(st.booleans()):
            g.block = draw(st.sampled_from(["", "stem", f"block{number}", "block.0"]))
        choice = draw(st.integers(0, 9))
        if choice <= 2:
            here, loose = g.shortcut(here)
            if loose:  # of another shape: bring every branch to vectors and concatenate
                flat = [g.add(layers.Flatten(), b) for b in [here, *loose]]
                here = g.add(layers.Concat(0), *flat)
        elif products and choice == 9:
            here = product_of_branches(g, here)
        elif choice == 3 and len(g.shapes[here]) == 2 and g.shapes[here][1] > 1:
            here = g.attention(here, draw(st.booleans()))
        else:
            here = g.try_add(draw(single(g.shapes[here])), here)
    g.block = ""
    return _classifier(draw, g, here)


def _classifier(draw, g, here):
    """End in a vector of at least two logits, mostly through a linear head."""
    if len(g.shapes[here]) == 3 and draw(st.booleans()):
        here = g.add(layers.AdaptiveAvgPool2d((1, 1)), here)
    if len(g.shapes[here]) == 2 and draw(st.booleans()):
        here = g.add(layers.SelectToken(0), here)
    if len(g.shapes[here]) > 1:
        here = g.add(layers.Flatten(), here)
    width = g.shapes[here][0]
    if width == 1 or width > 8 or draw(st.integers(0, 4)) > 0:
        g.add(layers.Linear(width, draw(st.integers(2, 6)), draw(st.booleans())), here)
    return ft.LayerGraph(g.nodes, "random")


# ---- weights ----------------------------------------------------------------------------------------------------

STYLES = (
    "normal",
    "identity",
    "rank one",
    "orthogonal",
    "zero",
    "ones",
    "signs",
    "single",
    "large",
    "tiny",
    "denormal",
    "huge",
)


@st.composite
def weights_for(draw, graph, styles=STYLES, dtype=torch.float64):
    """A state dict of ``graph``: each tensor in a style of its own, or all in one."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    common = draw(st.sampled_from(styles)) if draw(st.booleans()) else None
    made, used = {}, {}
    for key, parameter in parameters_of(graph):
        used[key] = style = common or draw(st.sampled_from(styles))
        made[key] = tensor_in_style(parameter, style, generator).to(
            torch.int64 if parameter.initial is Initial.COUNT else dtype
        )
        if key.endswith("in_proj_bias") and {style, used[key.replace("bias", "weight")]} != {"normal"}:
            # biases of keys and values cancel in exact arithmetic; beside smaller weights all that is left is rounding
            made[key][len(made[key]) // 3 :] = 0.0
    return made


def parameters_of(graph):
    """Yield state-dict keys and parameters, in the order of the nodes."""
    for name in graph.order:
        layer = graph.layer(name)
        site = ft.Site((layer,), (name,), graph.input_shapes(name), graph.shapes[name])
        for parameter in require_rule(layer, ft.Quantity.PARAMETERS, name).function(site):
            yield f"{name}.{parameter.name}" if parameter.name else name, parameter


def tensor_in_style(parameter, style, generator):
    shape = tuple(int(size) for size in parameter.shape)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    if parameter.initial is Initial.COUNT:
        return torch.zeros(shape)
    if parameter.initial is Initial.MASK and style in ("single", "zero"):
        return hidden(normal(*shape))
    if parameter.initial is Initial.VARIANCE:
        scale = {"zero": 0.0, "large": 1e6, "huge": 1e12, "tiny": 1e-8, "denormal": 1e-300}.get(style, 1.0)
        return normal(*shape).abs() * scale
    flat = (shape[0], numel(shape[1:])) if len(shape) > 1 else (numel(shape), 1)
    scale = int(parameter.fan_in) ** -0.5
    match style:
        case "normal":
            made = normal(*flat) * scale
        case "rank one":
            made = normal(flat[0], 1) * normal(1, flat[1]) * scale
        case "orthogonal":
            made = torch.linalg.qr(normal(max(flat), min(flat))).Q
            made = made if made.shape == flat else made.T
        case "identity":  # where most bounds are attained
            made = torch.zeros(shape)
            if len(shape) == 1:
                made += parameter.initial in (Initial.ONE, Initial.SLOPE)
            elif shape:
                rows = torch.arange(shape[0])
                made[(rows, rows % shape[1], *(k // 2 for k in shape[2:]))] = 1.0
        case "zero":
            made = torch.zeros(flat)
        case "ones":
            made = torch.ones(flat)
        case "signs":
            made = normal(*flat).sign()
        case "single":
            made = torch.zeros(flat)
            made[flat[0] // 2, flat[1] // 2] = 3.0
        case "large":
            made = normal(*flat) * 30
        case "tiny":
            made = normal(*flat) * 1e-12
        case "denormal":
            bits = torch.randint(-(2**45), 2**45, flat, generator=generator)  # a literal could be flushed to zero
            made = bits.abs().view(torch.float64) * bits.sign()
        case "huge":
            made = normal(*flat) * 1e40
        case _:
            raise AssertionError(style)
    return made.reshape(shape).to(torch.float64)


# ---- closed forms -----------------------------------------------------------------------------------------------

VARIABLES = tuple(ft.expressions.nonnegative(name) for name in "abc")
RATIONALS = st.fractions(-3, 3, max_denominator=6).map(lambda q: sympy.Rational(q.numerator, q.denominator))


def closed_forms(variables=VARIABLES, depth=4):
    """Expressions from the heads that closed forms use, also ones that no bound would have (differences, 1/x)."""
    leaves = st.one_of(
        st.sampled_from(variables), RATIONALS, st.sampled_from([sympy.Integer(1), sympy.pi, sympy.E, sympy.exp(-1)])
    )

    def grow(inner):
        pairs = st.lists(inner, min_size=2, max_size=3)
        powers = st.sampled_from(
            [sympy.Integer(k) for k in (-2, -1, 2, 3)] + [sympy.Rational(1, 2), sympy.Rational(-1, 2)]
        )
        return st.one_of(
            pairs.map(lambda parts: sympy.Add(*parts)),
            pairs.map(lambda parts: sympy.Mul(*parts)),
            pairs.map(lambda parts: sympy.Max(*parts) if all(p.is_extended_real for p in parts) else parts[0]),
            pairs.map(lambda parts: sympy.Min(*parts) if all(p.is_extended_real for p in parts) else parts[0]),
            st.tuples(inner, powers).map(lambda pair: sympy.Pow(*pair)),
            inner.filter(is_simple).map(lambda part: sympy.exp(-part)),
            inner.filter(is_simple).map(sympy.erf),
        )  # fmt: skip

    return st.recursive(leaves, grow, max_leaves=2**depth).filter(is_real)


def is_simple(expression):
    """Whether exp and erf of it may be read back: a number must not hold another one of them."""
    return not expression.is_number or not expression.has(sympy.exp, sympy.erf)


def is_real(expression):
    return expression.is_extended_real is not False and not expression.has(sympy.zoo, sympy.nan, sympy.oo, sympy.I)
