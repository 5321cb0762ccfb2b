"""Gram matrices of interconnections against the Jacobians they bound, with slopes drawn and searched for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fimtheory.errors import NonFiniteError
from fimtheory.norms import interconnection_multipliers as multipliers
from fimtheory.norms.interconnection import Interconnection, Rows, euclidean

STYLES = ("normal", "zero rows", "duplicates", "scales", "sparse", "tiny", "huge")


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def in_style(rows, style, generator):
    if len(rows) == 0:
        return rows
    pick = torch.randint(len(rows), (len(rows),), generator=generator)
    match style:
        case "zero rows":
            rows = rows * (torch.rand(len(rows), 1, generator=generator, dtype=torch.float64) < 0.5)
        case "duplicates":
            rows = rows[pick]
        case "scales":
            rows = rows * 10.0 ** (16 * torch.rand(len(rows), 1, generator=generator, dtype=torch.float64) - 8)
        case "sparse":
            rows = rows * (torch.rand(rows.shape, generator=generator, dtype=torch.float64) < 0.3)
        case "tiny":
            rows = rows * 1e-60
        case "huge":
            rows = rows * 1e30
    return rows


def exact(rows, relative):
    return Rows(rows, relative * rows.norm(dim=1))


def system_of(blocks):
    """The interconnection that receives ``blocks`` of rows, one after another."""
    system = Interconnection.of_inputs(blocks[0].values.shape[1])
    for block in blocks:
        system = system.extended(block)
    return system


def jacobian(b, m, d, a, delta):
    """J(delta), by substitution: p and q column by column."""
    n = len(delta)
    q = torch.zeros(n, b.shape[1], dtype=torch.float64)
    for k in range(n):
        q[k] = delta[k] * (b[k] + m[k] @ q)
    return d + a @ q


def perturbed(rows, generator):
    """Rows that differ by as much as the stated errors allow."""
    change = normal(generator, *rows.values.shape) * (rows.values.abs() > 0) if len(rows.values) else rows.values
    size = change.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return rows.values + change / size * rows.error[:, None] * (1 - 1e-9)


def worst(y, b, m, d, a, generator, tries=40):
    """Least eigenvalue of ``Y - J J^T`` in units of Y's diagonal, over drawn and ascended slopes."""
    scale = y.diagonal().rsqrt()
    n, least = len(b), float("inf")

    def lowest(delta):
        jac = scale[:, None] * jacobian(b, m, d, a, delta)
        gap = scale[:, None] * y * scale - jac @ jac.T
        return torch.linalg.eigvalsh(0.5 * (gap + gap.T))[0].item()

    for trial in range(tries):
        delta = 2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1
        delta = delta.sign() if trial % 2 else delta
        here = lowest(delta)
        for k in torch.randperm(n, generator=generator).tolist() if trial < 4 else ():
            flipped = delta.clone()
            flipped[k] = -flipped[k].sign() if flipped[k] != 0 else 1.0
            there = lowest(flipped)
            if there < here:
                here, delta = there, flipped
        least = min(least, here)
    return least


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    inputs, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(0, 4), min_size=0, max_size=3))
    relative = draw(st.sampled_from([0.0, 0.0, 1e-12, 1e-9, 1e-4]))
    blocks, columns = [], inputs
    for size in sizes:
        blocks.append(
            exact(in_style(normal(generator, size, columns), draw(st.sampled_from(STYLES)), generator), relative)
        )
        columns += size
    rows = exact(in_style(normal(generator, outputs, columns), draw(st.sampled_from(STYLES)), generator), relative)
    return inputs, blocks, rows, generator


def parts(inputs, blocks, rows, change):
    n = sum(len(block.values) for block in blocks)
    received = [torch.nn.functional.pad(change(block), (0, inputs + n - block.values.shape[1])) for block in blocks]
    received = torch.cat([torch.zeros(0, inputs + n, dtype=torch.float64), *received])
    whole = change(rows)
    return received[:, :inputs], received[:, inputs:], whole[:, :inputs], whole[:, inputs:]


@settings(max_examples=120, deadline=None)
@given(cases())
def test_gram_bounds_every_jacobian(case):
    inputs, blocks, rows, generator = case
    system = system_of(blocks) if blocks else Interconnection.of_inputs(inputs)
    directions = torch.eye(len(rows.values), dtype=torch.float64)
    found = 0
    for each in (system, multipliers.for_rows(system, rows), multipliers.for_norm(system, rows, directions)):
        y = each.gram(rows)
        if y is None:  # multipliers may lie too near the edge for large errors
            assert each is not system
            continue
        found += 1
        assert torch.equal(y, y.T)
        for change in (lambda r: r.values, lambda r: perturbed(r, generator)):
            blocks_of = parts(inputs, blocks, rows, change)
            assert worst(y, *blocks_of, generator, tries=10) >= -1e-9
    assert found > 0


@settings(max_examples=25, deadline=None)
@given(cases())
def test_extended_multipliers_are_feasible(case):
    inputs, blocks, _, _ = case
    system = Interconnection.of_inputs(inputs)
    for block in blocks:
        system = system.extended(block)
        assert bool((system.multipliers > 0).all())
        none = Rows(torch.zeros(1, inputs + len(system), dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
        assert system.gram(none) is not None


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_gram_of_a_chain_of_relus_is_nearly_attained(depth):
    system = Interconnection.of_inputs(1)
    row = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(depth):  # a slope in [0, 1] is 1/2 plus 1/2 times an unknown number
        system = system.extended(Rows(0.5 * row, torch.zeros(1, dtype=torch.float64)))
        row = torch.cat([0.5 * row, torch.ones(1, 1, dtype=torch.float64)], 1)
    rows = Rows(row, torch.zeros(1, dtype=torch.float64))
    y = multipliers.for_rows(system, rows).gram(rows)
    assert 1.0 <= y.item() <= 1.01
    assert system.gram(rows).item() >= 1.0


def test_multipliers_improve_the_objective():
    generator = torch.Generator().manual_seed(1)
    blocks = [exact(normal(generator, 4, 3), 0.0), exact(normal(generator, 4, 7), 0.0)]
    system, rows = system_of(blocks), exact(normal(generator, 3, 11), 0.0)
    before = system.gram(rows)
    by_rows = multipliers.for_rows(system, rows).gram(rows)
    by_norm = multipliers.for_norm(system, rows, torch.eye(3, dtype=torch.float64)).gram(rows)
    assert by_rows.diagonal().sqrt().sum() < before.diagonal().sqrt().sum()
    assert torch.linalg.eigvalsh(by_norm)[-1] < torch.linalg.eigvalsh(before)[-1]
    assert torch.linalg.eigvalsh(by_norm)[-1] <= 1.01 * torch.linalg.eigvalsh(by_rows)[-1]


def test_errors_of_rows_enter_the_bound():
    """A row that misses a tenth of itself may be larger by a tenth."""
    row = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    y = Interconnection.of_inputs(2).gram(Rows(row, torch.tensor([0.1], dtype=torch.float64)))
    assert y.item() >= 1.1**2
    received = Interconnection.of_inputs(2).extended(Rows(row, torch.tensor([0.1], dtype=torch.float64)))
    output = Rows(torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert received.gram(output).item() >= 1.1**2


def test_infeasible_multipliers_give_no_bound():
    system = Interconnection.of_inputs(1).extended(Rows(torch.ones(1, 1).double(), torch.zeros(1).double()))
    rows = Rows(torch.ones(1, 2).double(), torch.zeros(1).double())
    assert system.gram(rows) is not None
    for factor in (0.0, 1e-3, float("nan"), float("inf")):
        assert system.with_multipliers(system.multipliers * factor).gram(rows) is None


def test_no_rows_and_no_unknown_numbers():
    none = Interconnection.of_inputs(3)
    empty = Rows(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    assert none.gram(empty).shape == (0, 0)
    assert len(none.extended(empty)) == 0
    zero = Rows(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    assert 0.0 <= float(none.gram(zero).diagonal().max()) <= 1e-200


@pytest.mark.parametrize("size", [1e200, 1e308, float("inf"), float("nan")])
def test_rows_beyond_float64_are_refused(size):
    rows = Rows(torch.full((2, 2), size, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(NonFiniteError, match="smaller radius"):
        Interconnection.of_inputs(2).extended(rows)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-160, 1.0, 1e160, 1e300])
def test_euclidean_norms_of_all_sizes(size):
    values = size * torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    for dim, matrix in ((1, values), (0, values.T)):
        found = euclidean(matrix, dim)
        want = size * torch.tensor([5.0, 0.0, 1.0], dtype=torch.float64)
        assert bool((found >= want).all())
        assert bool((found <= want * 1.00001).all())
