"""Torch modules to layer graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fimtheory.errors import SourceError
from fimtheory.sources.comparison import (
    SINGLE_TOLERANCE,
    WIDE_TOLERANCE,
    compare_batch,
    compare_logits,
    trial_of,
)
from fimtheory.sources.imported import ImportedGraph
from fimtheory.sources.program import Arguments, doubles, exported, in_precision, program_of
from fimtheory.sources.reading import input_of, output_of, read

__all__ = ["from_torch", "imported"]


def from_torch(
    module: nn.Module,
    example_input: Any,
    *,
    input: str | None = None,
    output: str | None = None,
    name: str | None = None,
) -> ImportedGraph:
    """Return the layer graph of a torch module, with its weights.

    Every operation of the exported program becomes layers, or the import fails with one error that lists all that
    cannot be read.  The graph is run beside the module before it is returned: in float64 they agree in every node,
    and in the output to 1e-12 of its scale; in float32 to 1e-5.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    example_input : Tensor, tuple or mapping
        Arguments of one call, with a batch dimension first (only the first input of the batch is used).
    input : str or None
        Name of the argument that the Fisher information is about, where there are several; with token ids it is the
        output of the embedding that reads them.
    output : str or None
        Name of the logits among several outputs.
    name : str or None
        Name of the graph; by default that of the module's class.

    Returns
    -------
    ImportedGraph
        A ``LayerGraph`` with ``weights`` (a state dict; the module's own keys where a layer has its tensors),
        ``model()`` and the measured ``difference``.

    Raises
    ------
    SourceError
        The module is in training mode, its control flow depends on data, an operation has no layer, the input or the
        output is ambiguous, or graph and module disagree.

    Examples
    --------
    >>> made = from_torch(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.zeros(1, 3))
    >>> made, sorted(made.weights)
    (<LayerGraph Sequential: 4 nodes, (3,) -> (2,)>, ['0.bias', '0.weight', '2.bias', '2.weight'])
    """
    return imported(module, example_input, (1, 3), input=input, output=output, name=name)


def imported(
    module: nn.Module,
    example_input: Any,
    batches: Sequence[int],
    *,
    input: str | None = None,
    output: str | None = None,
    name: str | None = None,
) -> ImportedGraph:
    """Import a module as ``from_torch`` does; ``batches`` are the sizes of batches on which it must agree with itself.

    The program is exported for a batch of two, and nothing in it shows what the module computed from that number.
    """
    if not isinstance(module, nn.Module):
        raise SourceError(f"from_torch takes a torch.nn.Module, got a {type(module).__name__}")
    given = Arguments.of(example_input)
    both = given.in_precision(torch.float64), given.in_precision(torch.float32)
    wide = in_precision(module, torch.float64)
    with doubles():
        program = program_of(exported(wide, both[0]), both[0].leaves())
        start, end = input_of(program, input), output_of(program, output)
        exact = program.widened(start, end, _precision(module))
        program, start, end = exact or (program, start, end)
        graph, trial = read(program, name or type(module).__name__, start, end)
    own = module.state_dict()
    weights = {key: own[key] if _same(own.get(key), value) else value for key, value in graph.weights.items()}
    made = graph.weighing({key: value.detach().clone() for key, value in weights.items()})
    if start.name in program.inputs:
        both = tuple(each.replacing(program.inputs.index(start.name), trial.input) for each in both)
    else:  # the input is an embedding, and its tokens are tried as they are
        trial = trial_of(made, program.run({}, {start})[start])
    with doubles():
        if exact is not None:  # the module itself rounds on the way, in float64 too
            logits = program.run({start: trial.input}, {end})[end]
        else:
            logits = program.logits_of(wide, both[0], end)
        for count in batches:
            batch = program.logits_of(wide, both[0].rows(count), end)
            compare_batch(made, trial, batch, count, SINGLE_TOLERANCE if exact is not None else WIDE_TOLERANCE)
    single = program.logits_of(in_precision(module, torch.float32), both[1], end)
    return made.compared(compare_logits(made, trial, logits, single))


def _precision(module: nn.Module) -> torch.dtype:
    """Return the type of a module's first floating-point tensor, that of torch where it has none."""
    tensors = (*module.parameters(), *module.buffers())
    return next((each.dtype for each in tensors if each.is_floating_point()), torch.get_default_dtype())


def _same(own: Tensor | None, read: Tensor) -> bool:
    return own is not None and own.shape == read.shape and torch.equal(own.to(read.dtype), read)
