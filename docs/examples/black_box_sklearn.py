"""lam of a classifier of scikit-learn, which has no derivatives to give.

Run: python docs/examples/black_box_sklearn.py
"""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression

import fimtheory as ft
from fimtheory.blackbox import SklearnQuery
from fimtheory.data import load_data

train, test = load_data("digits:train", (64,)), load_data("digits:test", (64,), n=5)
assert train.labels is not None
classifier = LogisticRegression(max_iter=500).fit(train.inputs.double().numpy(), train.labels)
found = ft.estimate_black_box(SklearnQuery(classifier), test.inputs.double().numpy(), queries=200)
for lower, lam, upper in zip(found.lower.tolist(), found.lam.tolist(), found.upper.tolist(), strict=True):
    print(f"lam = {lam:.6g}, between {lower:.6g} and {upper:.6g}")
print(found.note)
