"""F(x) of one input as a scipy linear operator, for the eigensolvers and trace estimators of other libraries."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from fimtheory.errors import DataError
from fimtheory.fisher.operator import FisherOperator

__all__ = ["linear_operator"]


def linear_operator(operator: FisherOperator) -> LinearOperator:
    """Return ``F(x)`` as a symmetric ``(d, d)`` operator on float64 arrays; nothing of that size is formed.

    Its products are not scaled: where lam leaves the range of float64 they overflow or vanish, which the estimators of
    this package avoid.

    Parameters
    ----------
    operator : FisherOperator
        Of one input: a batch ``(1, *input)``, d numbers.

    Raises
    ------
    DataError
        If the operator has several inputs.

    Examples
    --------
    >>> from scipy.sparse.linalg import eigsh
    >>> head = torch.nn.Linear(5, 3, bias=False, dtype=torch.float64).eval()
    >>> _ = head.weight.data.copy_(torch.eye(3, 5))
    >>> F = linear_operator(FisherOperator(head, torch.zeros(1, 5, dtype=torch.float64)))
    >>> F.shape, round(float(eigsh(F, k=1, return_eigenvectors=False)[0]), 12)
    ((5, 5), 0.333333333333)
    """
    shape = operator.x.shape
    if shape[0] != 1:
        raise DataError(f"the operator has {shape[0]} inputs: make one of a single input, x[i : i + 1]")
    d = math.prod(shape[1:])

    def product(v: np.ndarray) -> np.ndarray:
        tensor = torch.as_tensor(np.ascontiguousarray(v, dtype=np.float64)).reshape(shape).to(operator.x.device)
        return operator.product(tensor).flatten().cpu().numpy()

    return LinearOperator((d, d), matvec=product, rmatvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
