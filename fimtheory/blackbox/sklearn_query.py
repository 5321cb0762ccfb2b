"""A scikit-learn classifier as a black box."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from fimtheory.errors import DataError

__all__ = ["SklearnQuery"]


@final
class SklearnQuery:
    """Probabilities of a fitted classifier; inputs of any shape are flattened.

    Parameters
    ----------
    classifier
        Anything with ``predict_proba``.  Trees and nearest neighbours answer with step functions, of which lam is zero
        almost everywhere: differences of them measure the steps.

    Raises
    ------
    DataError
        There is no ``predict_proba``.

    Examples
    --------
    >>> import fimtheory as ft
    >>> from sklearn.linear_model import LogisticRegression
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> classifier = LogisticRegression().fit(x, [0, 1, 1])
    >>> found = ft.estimate_black_box(SklearnQuery(classifier), x)
    >>> p = classifier.predict_proba(x)
    >>> bool(np.allclose(found.lam, p[:, 0] * p[:, 1] * np.sum(classifier.coef_**2)))
    True
    """

    def __init__(self, classifier: Any) -> None:
        if not callable(getattr(classifier, "predict_proba", None)):
            raise DataError(
                f"{type(classifier).__name__} has no predict_proba: expected a classifier with probabilities, such as "
                "SVC(probability=True) or a CalibratedClassifierCV around yours"
            )
        self._classifier = classifier

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return ``(B, K)`` probabilities of ``(B, *input)`` inputs."""
        return self._classifier.predict_proba(np.asarray(x).reshape(len(x), -1))
