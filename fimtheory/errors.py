"""Every exception fimtheory raises on purpose.

Each message says what was given, what was expected and what to do; the command line prints it as one line
and exits with status 2.  A failed internal invariant is an ``AssertionError``, never one of these.
"""

from __future__ import annotations

import math

__all__ = [
    "AdjointTestError",
    "AnswerError",
    "AssumptionError",
    "CheckError",
    "DataError",
    "FimTheoryError",
    "FormatError",
    "GraphError",
    "MissingRuleError",
    "NonFiniteError",
    "PropertyError",
    "QueryError",
    "RuleError",
    "ShapeError",
    "SizeError",
    "SourceError",
    "StrategyError",
    "SymbolicSizeError",
    "TargetError",
    "WeightsError",
]


class FimTheoryError(Exception):
    """Base class: the user's input cannot be handled, and the message says why and what to do."""


class GraphError(FimTheoryError):
    """A layer graph is cyclic, disconnected, ambiguous or otherwise not a classifier."""


class ShapeError(GraphError):
    """A layer received an input shape it cannot take."""


class SizeError(FimTheoryError):
    """A network is too large for a method; the message says what the limit is and what to use instead."""


class FormatError(FimTheoryError):
    """A file or a JSON value is truncated, too large or not in the expected format."""


class MissingRuleError(FimTheoryError):
    """No rule is registered for an exact layer type and a quantity."""


class RuleError(FimTheoryError):
    """A rule was registered twice, or returned something that is not a claim about its layer."""


class SymbolicSizeError(FimTheoryError):
    """A number was asked of a graph whose sizes are still symbols."""


class AssumptionError(FimTheoryError):
    """A theorem holds under an assumption for which no value was given."""


class StrategyError(FimTheoryError):
    """No strategy draws layers of a type, or hypothesis is not installed."""


class PropertyError(FimTheoryError, AssertionError):
    """A rule does not have a property that it must have.

    Attributes
    ----------
    rule, prop
        Names of the rule and of the property.
    layer
        The layer, or the run of layers, with the shapes that flow in.
    seed
        Of weights and inputs.
    bound, estimate, ratio
        What the rule claims, what was found, and the second over the first; NaN where there is no number.
    snippet
        A program that fails in the same way.
    example
        At which case of a run the property failed first; 0 where a case was tested by itself.
    """

    def __init__(
        self,
        cause: str,
        *,
        rule: str,
        prop: str,
        layer: str,
        seed: int,
        snippet: str,
        bound: float = math.nan,
        estimate: float = math.nan,
    ) -> None:
        self.rule, self.prop, self.layer, self.seed, self.snippet = rule, prop, layer, seed, snippet
        self.bound, self.estimate, self.example = bound, estimate, 0
        self.ratio = estimate / bound if bound else math.inf
        numbers = "" if math.isnan(bound) else f" (claimed {bound:.6g}, found {estimate:.6g}, ratio {self.ratio:.6g})"
        super().__init__(
            f"{rule} fails the property {prop} at {layer}, seed {seed}: {cause}{numbers}; to reproduce:\n{snippet}"
        )


class CheckError(FimTheoryError):
    """The kernel refused a step of a derivation."""


class WeightsError(FimTheoryError):
    """Weights are missing, left over or of the wrong shape."""


class NonFiniteError(FimTheoryError):
    """A weight, an input or an output is NaN or infinite."""


class AdjointTestError(FimTheoryError):
    """Forward- and reverse-mode derivatives of a model disagree, so no estimate can be trusted."""


class DataError(FimTheoryError):
    """Input data cannot be read or do not fit the model."""


class TargetError(FimTheoryError):
    """A TARGET names nothing that can be loaded."""


class SourceError(FimTheoryError):
    """A model cannot be imported, or its graph does not compute what the model does."""


class AnswerError(FimTheoryError):
    """A black box answered with something that is no distribution, or from which nothing can be said."""


class QueryError(FimTheoryError):
    """A black box raised, could not be reached or took too long.

    Attributes
    ----------
    inputs_done, queries_done : int
        What was finished before.
    partial
        The estimate of the finished inputs (a ``BlackBoxEstimate``), or None.
    """

    def __init__(
        self, message: str, *, inputs_done: int = 0, queries_done: int = 0, partial: object | None = None
    ) -> None:
        super().__init__(message)
        self.inputs_done = inputs_done
        self.queries_done = queries_done
        self.partial = partial
