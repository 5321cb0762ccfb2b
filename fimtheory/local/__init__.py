"""Bounds on lam that hold in a ball around an input, not everywhere.

`walk` encloses values and Jacobian over the ball; `bounds` makes a certified supremum of lam of it, and `radius` a
certified radius.  What a layer needs to pass: `affine`, `activations`, `normalisation`, `products`, `attention`.
"""

from __future__ import annotations

from fimtheory.local.bounds import LocalBounds, local_bound
from fimtheory.local.models import require_model
from fimtheory.local.radius import LocalRadii, local_radius

__all__ = ["LocalBounds", "LocalRadii", "local_bound", "local_radius", "require_model"]
