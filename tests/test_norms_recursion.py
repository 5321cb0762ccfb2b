"""The worst case of a chain over its slopes: against exact products, ascent over the slopes, and planted faults."""

import math
from itertools import pairwise

import pytest
import torch
from flint import fmpq
from hypothesis import given, settings
from hypothesis import strategies as st
from test_norms_oracles import KINDS, bounds_exactly, flushing, fraction, is_positive_semidefinite, rational, weights

from fimtheory import norms
from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms import reach as reach_module
from fimtheory.norms import recursion as recursion_module
from fimtheory.norms.reach import Gram, Reach, largest_difference
from fimtheory.norms.scaling import scale_rows
from fimtheory.norms.slopes import scaled_slopes

INTERVALS = [(0.0, 1.0), (-0.5, 1.5), (0.2, 1.0), (-0.129, 1.129), (-1.0, 1.0), (1.0, 1.0), (-2.0, -0.5), (-1.5, 0.1)]
SEEDS = st.integers(0, 2**32)
SIZES = st.lists(st.integers(1, 5), min_size=2, max_size=6)
FEW = 20  # descent steps where tightness does not matter


def drawn(sizes, seed, kinds=("normal",)):
    return [weights(kinds[i % len(kinds)], (o, n), seed + i) for i, (n, o) in enumerate(pairwise(sizes))]


def per_neuron(interval, size, seed):
    """Intervals inside the given one, with some of width zero and some a single zero."""
    generator = torch.Generator().manual_seed(seed)
    low, high = interval
    ends = low + (high - low) * torch.rand(2, size, generator=generator, dtype=torch.float64).sort(0).values
    kind = torch.randint(0, 4, (size,), generator=generator)
    lower, upper = ends
    upper = torch.where(kind == 0, lower, upper)
    return torch.where(kind == 1, 0.0, lower.clamp(max=0.0)), torch.where(kind == 1, 0.0, upper.clamp(min=0.0))


def exact_product(matrices, diagonals):
    """W_m D_{m-1} ... D_1 W_1 in rational arithmetic."""
    product = rational(matrices[0])
    for matrix, diagonal in zip(matrices[1:], diagonals, strict=True):
        scaled = [[d * x for x in row] for d, row in zip(rational(diagonal), product, strict=True)]
        columns = list(zip(*scaled, strict=True))
        product = [
            [sum((x * y for x, y in zip(row, column, strict=True)), fmpq(0)) for column in columns]
            for row in rational(matrix)
        ]
    return product


def chosen_slopes(slopes, matrices, seed, inside):
    """Admissible slopes: ends, or with ``inside`` points between them."""
    generator = torch.Generator().manual_seed(seed)
    diagonals = []
    for (low, high), matrix in zip(slopes, matrices, strict=False):
        low, high = (torch.as_tensor(end, dtype=torch.float64).expand(len(matrix)) for end in (low, high))
        where = torch.rand(len(matrix), generator=generator, dtype=torch.float64)
        between = torch.minimum(torch.maximum(low + (high - low) * where, low), high)
        diagonals.append(between if inside else torch.where(where < 0.5, low, high))
    return diagonals


def ascended(matrices, slopes, seed, last=None, tries=3):
    """Largest norm found by changing one slope after the other to its other end: a lower bound."""
    best = 0.0
    matrices = [*matrices[:-1], matrices[-1] if last is None else last]
    for attempt in range(tries):
        diagonals = chosen_slopes(slopes, matrices, seed + attempt, inside=False)
        ends = [
            [torch.as_tensor(e, dtype=torch.float64).expand(len(d)) for e in s]
            for s, d in zip(slopes, diagonals, strict=True)
        ]

        def value(diagonals=diagonals):
            product = matrices[0]
            for matrix, diagonal in zip(matrices[1:], diagonals, strict=True):
                product = matrix @ (diagonal[:, None] * product)
            return float(torch.linalg.matrix_norm(product, 2))

        current, improved = value(), True
        while improved:
            improved = False
            for diagonal, (low, high) in zip(diagonals, ends, strict=True):
                for k in range(len(diagonal)):
                    before = float(diagonal[k])
                    diagonal[k] = low[k] + high[k] - before
                    changed = value()
                    if changed > current * (1 + 1e-12):
                        current, improved = changed, True
                    else:
                        diagonal[k] = before
        best = max(best, current)
    return best


def product_of_norms(matrices, slopes, head=False):
    value = 1.0
    for matrix in matrices[: -1 if head else None]:
        value *= norms.dense(matrix).upper
    for low, high in slopes:
        value *= max(float(torch.as_tensor(end).abs().max()) for end in (low, high))
    return value * (norms.row_diameter(matrices[-1]).upper if head else 1.0)


# ---- soundness --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(SIZES, SEEDS, st.sampled_from(INTERVALS), st.booleans(), st.booleans())
def test_chain_covers_the_slopes_that_ascent_finds(sizes, seed, interval, vectors, head):
    matrices = drawn(sizes, seed)
    slopes = [per_neuron(interval, n, seed + i) if vectors else interval for i, n in enumerate(sizes[1:-1])]
    if not head:
        bound = norms.chain(matrices, slopes, steps=FEW).upper
        assert bound >= ascended(matrices, slopes, seed) * (1 - 1e-12)
    elif sizes[-1] > 1:
        bound = norms.chain_head(matrices, slopes, steps=FEW).upper
        for i in range(min(sizes[-1], 3)):
            difference = (matrices[-1][i] - matrices[-1][i - 1])[None]
            assert bound >= ascended(matrices, slopes, seed, difference, tries=1) * (1 - 1e-12)
    else:
        return
    assert bound <= product_of_norms(matrices, slopes, head) * (1 + 1e-6)  # each certified norm is 2e-8 above


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    SEEDS,
    st.lists(st.sampled_from(KINDS), min_size=3, max_size=3),
    st.sampled_from(INTERVALS),
    st.booleans(),
    st.booleans(),
)
def test_chain_covers_exact_products_of_adversarial_weights(sizes, seed, kinds, interval, vectors, flush):
    matrices = drawn(sizes, seed, kinds)
    slopes = [per_neuron(interval, n, seed + i) if vectors else interval for i, n in enumerate(sizes[1:-1])]
    exact = [exact_product(matrices, chosen_slopes(slopes, matrices, seed + i, bool(i % 2))) for i in range(4)]
    with flushing(flush):
        try:
            bound = norms.chain(matrices, slopes, steps=FEW)
            head = norms.chain_head(matrices, slopes, steps=FEW) if sizes[-1] > 1 else None
        except NonFiniteError:
            assert sum(kind in ("huge", "wide range") for kind in kinds) > 1
            return
    for product in exact:
        assert bounds_exactly(bound.upper, product)
        if head is not None:
            difference = [[x - y for x, y in zip(product[0], product[-1], strict=True)]]
            assert bounds_exactly(head.upper, difference)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5), st.integers(1, 5), SEEDS, st.sampled_from(INTERVALS), st.sampled_from([1.0001, 1.5, 3.0, 1e9])
)
def test_reach_holds_exactly_for_every_vertex(rows, columns, seed, interval, factor):
    """P - D W W^T D is positive semidefinite in rational arithmetic, whatever the multipliers."""
    matrix = weights("normal", (rows, columns), seed)
    slopes = scaled_slopes(per_neuron(interval, rows, seed), rows, "a layer")
    if slopes is None:
        return
    gram = Reach.whole(columns).through(scale_rows(matrix, None, "a weight"))
    level = float(torch.linalg.eigvalsh(gram.matrix)[-1] / gram.matrix.diagonal().max())
    reach = gram.after(slopes, torch.full((rows,), level * factor, dtype=torch.float64))
    assert reach is not None
    bound, unit = rational(reach.matrix), fmpq(2) ** reach.exponent
    exact = rational(matrix)
    square = [[sum((x * y for x, y in zip(a, b, strict=True)), fmpq(0)) for b in exact] for a in exact]
    for sign in (-1, 1):
        signs = torch.where(torch.arange(rows) % 2 == 0, 1.0, float(sign))
        d = [
            (fraction(c) + fraction(s * r)) * fmpq(2) ** slopes.exponent
            for c, s, r in zip(slopes.centre, signs, slopes.radius * (1 - 2.0**-40), strict=True)
        ]
        assert is_positive_semidefinite(
            [[unit * bound[i][j] - d[i] * square[i][j] * d[j] for j in range(rows)] for i in range(rows)]
        )


def combined(*terms):
    """Sum of multiples of rational matrices."""
    size = range(len(terms[0][1]))
    return [[sum((factor * matrix[i][j] for factor, matrix in terms), fmpq(0)) for j in size] for i in size]


@pytest.mark.parametrize("seed", range(10))
def test_gram_matrices_and_known_slopes_are_rounded_up(seed):
    """In rational arithmetic; of rank one, so that rounding to nearest would leave a negative eigenvalue."""
    matrix, centre = weights("normal", (4, 1), seed), weights("normal", (4,), seed + 1)
    weight = scale_rows(matrix, None, "a weight")
    gram = Reach.whole(1).through(weight)
    exact = [[x[0] * y[0] for y in rational(matrix)] for x in rational(matrix)]
    bound = rational(gram.matrix)
    assert is_positive_semidefinite(combined((fmpq(2) ** gram.exponent, bound), (-1, exact)))
    slopes = scaled_slopes((centre, centre), 4, "a layer")
    reach = gram.after(slopes, torch.ones(4, dtype=torch.float64))
    c = rational(centre)
    scaled = [[c[i] * bound[i][j] * c[j] for j in range(4)] for i in range(4)]
    unit = fmpq(2) ** (reach.exponent - gram.exponent)
    assert is_positive_semidefinite(combined((unit, rational(reach.matrix)), (-1, scaled)))


@pytest.mark.parametrize("level", [0.0, 0.5, 0.999999, math.nan, -1.0, math.inf, 1e300])
def test_multipliers_below_the_gram_matrix_are_refused(level):
    gram = Gram(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64), 0)
    slopes = scaled_slopes((0.0, 1.0), 2, "a layer")
    assert gram.after(slopes, torch.full((2,), 1.5 * level, dtype=torch.float64)) is None
    assert gram.after(slopes, torch.full((2,), 1.6, dtype=torch.float64)) is not None


@pytest.mark.parametrize("multiplier", [0.0, math.nan, -1.0, math.inf])
def test_useless_multipliers_fall_back_to_the_product(monkeypatch, multiplier):
    matrices = drawn([4, 5, 3], 0)
    optimised = recursion_module.optimised

    def spoilt(layers, last, *, head, steps):
        found = optimised(layers, last, head=head, steps=steps)
        return [torch.full_like(k, multiplier) for k in found] if steps > 0 or everything else found

    everything = False
    monkeypatch.setattr(recursion_module, "optimised", spoilt)
    bound = norms.chain(matrices, [(0.0, 1.0)])
    assert bound.method == "recursion, uniform multipliers"
    assert bound == norms.chain(matrices, [(0.0, 1.0)], steps=0)
    everything = True
    bound = norms.chain(matrices, [(0.0, 1.0)])
    assert bound.method == "product"
    assert bound.upper == pytest.approx(product_of_norms(matrices, [(0.0, 1.0)]))


def without_the_factor_two(gram, free, multipliers):
    """A planted fault: the multipliers of the quadratic constraint counted twice."""
    found = CERTIFIED(gram, free, multipliers)
    return None if found is None else (found[0], 0.5 * found[1])


def without_the_coupling(gram, free, multipliers):
    """A planted fault: H = G, as if the Schur complement vanished."""
    found = CERTIFIED(gram, free, multipliers)
    return None if found is None else (gram, found[1])


def without_the_factorisation(gram, free, multipliers):
    """A planted fault: multipliers below G are taken as they are, and H for granted."""
    k = 0.6 * multipliers
    middle = torch.diag(k) - gram[free][:, free]
    return gram + gram[free].T @ torch.linalg.solve(middle, gram[free]), k


CERTIFIED = reach_module._certified


@pytest.mark.parametrize("fault", [without_the_factor_two, without_the_coupling, without_the_factorisation])
def test_planted_faults_are_caught(monkeypatch, fault):
    monkeypatch.setattr(reach_module, "_certified", fault)
    caught = 0
    for seed in range(5):
        matrices = drawn([3, 3, 2], seed)
        for interval in ((0.0, 1.0), (-0.5, 1.5)):
            found = ascended(matrices, [interval], seed)
            caught += norms.chain(matrices, [interval], steps=FEW).upper < found * (1 - 1e-9)
    assert caught > 2


# ---- exactness and tightness ------------------------------------------------------------------------------------


def test_one_layer_is_its_norm():
    matrix = weights("normal", (4, 6), 1)
    assert norms.chain([matrix], []).upper == pytest.approx(norms.dense(matrix).upper, rel=1e-14)
    assert norms.chain_head([matrix], []).upper == pytest.approx(norms.row_diameter(matrix).upper, rel=1e-14)


@pytest.mark.parametrize("slope", [1.0, -1.0, 0.3, 2.5, 1e200, 1e-200])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_known_slopes_give_the_norm_of_the_product(slope, depth):
    matrices = drawn([5, 4, 6, 3, 5, 4][: depth + 1], depth)
    matrices[0] = matrices[0] / max(abs(slope), 1.0)  # within float64 after two layers, at least
    if abs(math.log10(abs(slope))) > 100 and depth > 2:
        return
    product = matrices[0]
    for matrix in matrices[1:]:
        product = matrix @ (slope * product)
    bound = norms.chain(matrices, [(slope, slope)] * (depth - 1))
    truth = float(torch.linalg.matrix_norm(product / product.abs().max(), 2)) * float(product.abs().max())
    assert truth * (1 - 1e-12) <= bound.upper <= truth * (1 + 1e-7)
    assert bound.method.startswith("recursion")
    distance = float(torch.cdist(product, product, compute_mode="donot_use_mm_for_euclid_dist").max())
    if 1e-100 < distance < 1e100:
        head = norms.chain_head(matrices, [(slope, slope)] * (depth - 1)).upper
        assert distance * (1 - 1e-12) <= head <= distance * (1 + 1e-7)


def test_known_slopes_of_vectors_may_vanish():
    matrices = drawn([5, 4, 3], 0)
    slopes = torch.tensor([1.0, 0.0, -2.0, 1e-300], dtype=torch.float64)
    truth = float(torch.linalg.matrix_norm(matrices[1] @ (slopes[:, None] * matrices[0]), 2))
    assert truth * (1 - 1e-12) <= norms.chain(matrices, [(slopes, slopes)]).upper <= truth * (1 + 1e-7)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (-0.129, 1.129), (0.2, 1.0), (-1.0, 1.0)])
def test_nonnegative_weights_are_bounded_exactly(interval):
    """The largest slopes are the worst ones, and the relaxation is tight."""
    matrices = [matrix.abs() for matrix in drawn([4, 5, 4, 3], 3)]
    product = matrices[2] @ (interval[1] * matrices[1] @ (interval[1] * matrices[0]))
    truth = float(torch.linalg.matrix_norm(product, 2))
    assert truth <= norms.chain(matrices, [interval, interval]).upper <= truth * 1.005


def test_a_single_neuron_is_bounded_exactly():
    """Rank one in the middle: |W_2| b |W_1|."""
    matrices = drawn([4, 1, 3], 5)
    truth = 1.5 * float(matrices[0].norm() * matrices[1].norm())
    assert truth * (1 - 1e-12) <= norms.chain(matrices, [(-0.5, 1.5)]).upper <= truth * (1 + 1e-7)


def waves(rows, columns, phase):
    """Weights that every version of torch agrees on."""
    i, j = torch.arange(rows, dtype=torch.float64)[:, None], torch.arange(columns, dtype=torch.float64)
    return torch.cos(1.7 * i * i + 2.3 * j + phase * (i + 1) * (j + 2))


@pytest.mark.parametrize(
    ("interval", "optimum", "head_optimum"),
    [((0.0, 1.0), 13.841922, 17.260367), ((-0.5, 1.5), 33.000549, 41.030839), ((0.2, 1.0), 13.391474, 16.718215)],
)
def test_descent_comes_close_to_the_optimum_of_the_semidefinite_program(interval, optimum, head_optimum):
    """The optima are those of LipSDP with one multiplier per neuron, by cvxpy and Clarabel."""
    matrices = [waves(6, 5, 0.9), waves(6, 6, 1.3), waves(4, 6, 0.4)]
    assert optimum * (1 - 1e-5) <= norms.chain(matrices, [interval] * 2).upper <= optimum * 1.003
    assert head_optimum * (1 - 1e-5) <= norms.chain_head(matrices, [interval] * 2).upper <= head_optimum * 1.003


def test_descent_improves_on_the_closed_form_and_that_on_the_product():
    matrices = drawn([20, 30, 30, 30, 10], 7)
    slopes = [(0.0, 1.0)] * 3
    for bound, head in ((norms.chain, False), (norms.chain_head, True)):
        closed = bound(matrices, slopes, steps=0).upper
        assert closed < 0.8 * product_of_norms(matrices, slopes, head)
        assert bound(matrices, slopes).upper < 0.9 * closed


@pytest.mark.parametrize("seed", range(4))
def test_head_is_below_the_norm_of_differences(seed):
    """Two rows differ by a vector of norm sqrt(2) times the rows, and twice the descent ends near its optimum."""
    matrices = drawn([4, 6, 5, 3], seed)
    slopes = [(-0.129, 1.129)] * 2
    assert norms.chain_head(matrices, slopes).upper <= math.sqrt(2) * 1.01 * norms.chain(matrices, slopes).upper


def test_many_classes_are_compared_pairwise():
    matrices = [weights("normal", (12, 8), 0), weights("normal", (1000, 12), 1)]
    bound = norms.chain_head(matrices, [(0.0, 1.0)], steps=5).upper
    far = torch.cdist(matrices[1], matrices[1]).flatten().argmax()
    difference = (matrices[1][far // 1000] - matrices[1][far % 1000])[None]
    assert ascended(matrices, [(0.0, 1.0)], 0, difference, tries=1) <= bound
    assert bound <= product_of_norms(matrices, [(0.0, 1.0)], head=True)


def test_largest_difference_of_rows_beside_a_large_common_part():
    rows = 1e6 + weights("normal", (20, 7), 2)
    value, exponent = largest_difference(Reach.whole(7), scale_rows(rows, None, "rows"))
    truth = float(torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").max()) ** 2
    assert truth * (1 - 1e-14) <= math.ldexp(value, exponent) <= truth * (1 + 1e-8)


# ---- extreme weights, dtypes and mistakes -----------------------------------------------------------------------


def test_zero_chains_are_zero():
    matrices = drawn([3, 4, 5, 2], 0)
    slopes = [(0.0, 1.0)] * 2
    for i in range(3):
        changed = [torch.zeros_like(m) if k == i else m for k, m in enumerate(matrices)]
        assert norms.chain(changed, slopes).upper == norms.chain_head(changed, slopes).upper == 0.0
    assert norms.chain(matrices, [(0.0, 0.0), (0.0, 1.0)]).upper == 0.0
    equal = [*matrices[:2], matrices[2][:1].expand(4, 5)]
    assert norms.chain_head(equal, slopes).upper == 0.0


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e-300])
def test_scales_of_layers_cancel(scale):
    matrices = drawn([3, 4, 5, 2], 0)
    slopes = [(-0.5, 1.5)] * 2
    expected = norms.chain(matrices, slopes)
    scaled = norms.chain([matrices[0] * scale, matrices[1] / scale, matrices[2]], slopes)
    assert scaled.upper == pytest.approx(expected.upper, rel=1e-6)
    assert scaled.method == expected.method
    stretched = [(low / scale, high / scale) for low, high in slopes]
    scaled = norms.chain([matrices[0] * scale, matrices[1], matrices[2]], [stretched[0], slopes[1]])
    assert scaled.upper == pytest.approx(expected.upper, rel=1e-6)


def test_a_chain_beyond_float64_is_refused():
    with pytest.raises(NonFiniteError, match="beyond"):
        norms.chain([torch.full((2, 2), 1e200, dtype=torch.float64)] * 2, [(0.0, 1.0)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_converted_exactly_and_left_alone(dtype):
    matrices = [matrix.to(dtype) for matrix in drawn([3, 4, 2], 0)]
    ends = torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype)
    before = [matrix.clone() for matrix in matrices]
    bound = norms.chain(matrices, [ends])
    assert bound == norms.chain([matrix.double() for matrix in matrices], [(0, 1)])
    assert all(torch.equal(x, y) for x, y in zip(before, matrices, strict=True))


def test_a_deep_chain_stays_above_zero_and_below_the_product():
    matrices = [weights("orthogonal", (6, 6), seed) for seed in range(40)]
    bound = norms.chain(matrices, [(0.0, 0.01)] * 39, steps=5)
    assert ascended(matrices, [(0.0, 0.01)] * 39, 0, tries=1) <= bound.upper <= 1.000001e-78


@pytest.mark.parametrize(
    ("matrices", "slopes", "error"),
    [
        ([], [], ShapeError),
        ([torch.ones(2, 2)], [(0.0, 1.0)], ShapeError),
        ([torch.ones(2, 2), torch.ones(2, 3)], [(0.0, 1.0)], ShapeError),
        ([torch.ones(2, 2), torch.ones(2)], [(0.0, 1.0)], ShapeError),
        ([torch.ones(0, 2), torch.ones(2, 0)], [(0.0, 1.0)], ShapeError),
        ([torch.ones(2, 2), torch.ones(2, 2)], [(torch.zeros(3), 1.0)], ShapeError),
        ([torch.ones(2, 2), torch.ones(2, 2)], [(1.0, 0.0)], NonFiniteError),
        ([torch.ones(2, 2), torch.ones(2, 2)], [(0.0, math.inf)], NonFiniteError),
        ([torch.ones(2, 2), torch.ones(2, 2)], [(math.nan, 1.0)], NonFiniteError),
        ([torch.full((2, 2), math.nan), torch.ones(2, 2)], [(0.0, 1.0)], NonFiniteError),
    ],
)
def test_mistakes_are_refused(matrices, slopes, error):
    with pytest.raises(error):
        norms.chain(matrices, slopes)


def test_a_head_needs_two_rows():
    with pytest.raises(ShapeError, match="two rows"):
        norms.chain_head([torch.ones(1, 2)], [])
