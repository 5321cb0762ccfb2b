"""Certified operator norms: every number here is an upper bound that holds in floating point.

Weights of any floating dtype, on any device, are converted exactly to float64 and scaled by a power of two.  An
estimate may choose a trial level; only a completed proof (a Cholesky factorisation with its rounding-error shift, a
Frobenius norm, a scalar inequality) turns it into a bound.

Assumed of the machine: IEEE binary64 rounded to nearest, a BLAS that evaluates inner products as sums of products in
some order, and a LAPACK whose Cholesky factorisation is the usual one, by substitution.  Denormals may be flushed.
"""

from fimtheory.norms.certified import CertifiedNorm, stacked
from fimtheory.norms.convolutions import convolution, transposed_convolution
from fimtheory.norms.matrices import dense, vector
from fimtheory.norms.network import network_head
from fimtheory.norms.recursion import chain, chain_head
from fimtheory.norms.residual import Correlation, centred_residual, equilibrated_product
from fimtheory.norms.row_norms import infinity_norm, two_to_infinity_norm
from fimtheory.norms.rows import row_diameter
from fimtheory.norms.scales import centred_scale, diagonal, folded_scale
from fimtheory.norms.scaling import RowScale, exact_float64

__all__ = [
    "CertifiedNorm",
    "Correlation",
    "RowScale",
    "centred_residual",
    "centred_scale",
    "chain",
    "chain_head",
    "convolution",
    "dense",
    "diagonal",
    "equilibrated_product",
    "exact_float64",
    "folded_scale",
    "infinity_norm",
    "network_head",
    "row_diameter",
    "stacked",
    "transposed_convolution",
    "two_to_infinity_norm",
    "vector",
]
