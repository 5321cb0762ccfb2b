"""The input-space Fisher information of a torch classifier at a batch of inputs, by products only."""

from fimtheory.fisher.linearisation import derivative_kernels
from fimtheory.fisher.operator import FisherOperator
from fimtheory.fisher.requirements import check_arguments, check_logits, require_tensor
from fimtheory.fisher.scaling import double, normalised, times_power_of_two
from fimtheory.fisher.softmax_factor import SoftmaxFactor
from fimtheory.fisher.views import linear_operator

__all__ = [
    "FisherOperator", "SoftmaxFactor", "check_arguments", "check_logits", "derivative_kernels", "double",
    "linear_operator", "normalised", "require_tensor", "times_power_of_two",
]  # fmt: skip
