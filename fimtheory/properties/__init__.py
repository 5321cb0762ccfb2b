"""Properties that every rule must have, tested against dense truths on drawn layers, weights and inputs.

Each is a function of a ``Case`` that raises ``PropertyError`` where it does not hold, and ``NotApplicableError`` with
the reason where it says nothing.  ``check_rule`` runs all of them.
"""

from __future__ import annotations

import fimtheory.strategies  # noqa: F401  says what to install where hypothesis is missing
from fimtheory.properties.cases import Case, Found, NotApplicableError, cases
from fimtheory.properties.checking import (
    PROPERTIES,
    Outcome,
    Report,
    Result,
    check_property,
    check_rule,
    claiming_rules,
)
from fimtheory.properties.closed_forms import monotone, scales, symbolic_equals_numeric
from fimtheory.properties.composition import composes
from fimtheory.properties.sampling import expected_matches_sampling
from fimtheory.properties.shapes import shapes_agree
from fimtheory.properties.signs import symmetric
from fimtheory.properties.soundness import sound

__all__ = [
    "PROPERTIES", "Case", "Found", "NotApplicableError", "Outcome", "Report", "Result", "cases", "check_property",
    "check_rule", "claiming_rules", "composes", "expected_matches_sampling", "monotone", "scales",
    "shapes_agree", "sound", "symbolic_equals_numeric", "symmetric",
]  # fmt: skip
