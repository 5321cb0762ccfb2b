"""Bounds on lam that hold in a ball around an input, not everywhere.

`walk` encloses values and Jacobian over the ball, `bounds` turns the enclosure into a certified number.  What a layer
needs to pass: `affine`, `activations`, `normalisation`, `products`, `attention`.
"""

from __future__ import annotations

from fimtheory.local.bounds import LocalBounds, local_bound

__all__ = ["LocalBounds", "local_bound"]
