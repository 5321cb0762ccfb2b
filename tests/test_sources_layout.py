"""Where the batch is in a value: held against numpy on batches whose entries say which input they belong to."""

import math

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fimtheory.sources.layout import Layout, UnsupportedError

INPUT = 10_000
"""Entries of input k lie between k and k + 1 times this."""


def inputs_of(count, shape):
    """One array for each input of a batch, every entry different."""
    return [k * INPUT + np.arange(math.prod(shape)).reshape(shape) for k in range(count)]


def by_input(layout, batch):
    return layout.by_input(torch.from_numpy(np.ascontiguousarray(batch))).numpy()


def separable(batch, count, shape):
    """Whether some dimension of a view splits into (outer, count, inner) so that every part is of one input."""
    viewed = batch.reshape(shape)
    for at, size in enumerate(shape):
        for outer in (n for n in range(1, size // count + 1) if size % (n * count) == 0):
            split = viewed.reshape(*shape[:at], outer, count, size // (outer * count), *shape[at + 1 :])
            parts = np.moveaxis(split, at + 1, 0) // INPUT
            if all((part == k).all() for k, part in enumerate(parts)):
                return True
    return False


@st.composite
def views(draw, shape):
    """A shape of as many entries: neighbours merged and dimensions split at random."""
    made = list(shape)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(made) - 1))
        if draw(st.booleans()) and at + 1 < len(made):
            made[at : at + 2] = [made[at] * made[at + 1]]
        else:
            first = draw(st.sampled_from([n for n in range(1, made[at] + 1) if made[at] % n == 0]))
            made[at : at + 1] = [first, made[at] // first]
    return tuple(made)


@st.composite
def laid_out(draw):
    """A batch after some views and permutations, its inputs after the same ones, and its layout."""
    count = draw(st.sampled_from([1, 2, 2, 2, 3]))
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3)))
    inputs = inputs_of(count, shape)
    batch, layout = np.stack(inputs), Layout((count, *shape), count)
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(batch.ndim)))
            layout, own = layout.permuted(order)
            batch, inputs = batch.transpose(order), [each.transpose(own) for each in inputs]
        else:
            wanted = draw(views(batch.shape))
            try:
                layout = layout.viewed(wanted)
            except UnsupportedError:
                event("a view that mixes inputs")
                assert not separable(batch, count, wanted), (batch.shape, wanted)
                continue
            batch, inputs = batch.reshape(wanted), [each.reshape(layout.sample) for each in inputs]
    event(f"outer {'1' if layout.outer == 1 else 'more'}, inner {'1' if layout.inner == 1 else 'more'}")
    return batch, inputs, layout


@settings(max_examples=150, deadline=None)
@given(laid_out())
def test_views_and_permutations_of_a_batch_do_the_same_to_every_input(drawn):
    batch, inputs, layout = drawn
    assert layout.shape == batch.shape
    found = by_input(layout, batch)
    for k, each in enumerate(inputs):
        np.testing.assert_array_equal(found[k], each)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_constant_that_meets_a_batch_meets_every_input(data):
    batch, inputs, layout = data.draw(laid_out())
    kept = data.draw(st.integers(0, batch.ndim), label="dimensions")
    sizes = [data.draw(st.sampled_from([1, size])) for size in batch.shape[batch.ndim - kept :]]
    constant = np.array(data.draw(st.lists(st.integers(0, 9), min_size=math.prod(sizes), max_size=math.prod(sizes))))
    constant = constant.reshape(sizes).astype(np.int64)
    at = layout.batch - (batch.ndim - kept)
    if at >= 0 and sizes[at] > 1 and data.draw(st.booleans(), label="the same for every input"):
        split = constant.reshape(*sizes[:at], layout.outer, layout.count, layout.inner, *sizes[at + 1 :])
        split[:] = np.take(split, [0], at + 1)
    met = by_input(layout, batch + constant)
    differences = [met[k] - each for k, each in enumerate(inputs)]
    try:
        own = layout.constant(torch.from_numpy(constant)).numpy()
    except UnsupportedError:
        event("a constant that differs between inputs")
        assert any((each != differences[0]).any() for each in differences)
        return
    for k, each in enumerate(inputs):
        np.testing.assert_array_equal(met[k], each + own)


def test_a_constant_along_part_of_a_merged_batch_is_refused():
    windows = Layout((2, 8, 7), 2).viewed((4, 4, 7))
    with pytest.raises(UnsupportedError, match="along the batch"):
        windows.constant(torch.zeros(2, 4, 7))


def test_a_dimension_that_holds_the_batch_cannot_be_named():
    layout, _ = Layout((2, 5, 3), 2).permuted((1, 0, 2))
    assert [layout.dim(0), layout.dim(2), layout.dim(-1)] == [0, 1, 1]
    with pytest.raises(UnsupportedError, match="across the inputs"):
        layout.dim(1)
    merged = Layout((2, 4, 3), 2).viewed((8, 3))
    assert merged.sample == (4, 3)
    assert merged.dim(1) == 1
    with pytest.raises(UnsupportedError, match="across the inputs"):
        merged.dim(-2)
