"""A strided convolution has the norm of one without stride, and zero padding costs at most what a torus does."""

import torch
from sympy import transpose

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

S, A, P, Z, C, E, F = (operator(name) for name in ("S", "A", "P", "Z", "C", "E", "F"))


def trial(seed: int) -> list[tuple[float, float]]:
    """Take dense matrices of torch's convolutions: with stride, on sorted entries, padded, and on a ring."""
    torch.manual_seed(seed)
    stride, size = 2 + seed % 2, 1 + seed % 5
    kernel = torch.randn(3, 2, size, dtype=torch.float64)
    conv, pad = torch.nn.functional.conv1d, torch.nn.functional.pad
    norm = lambda map, *size: float(  # noqa: E731
        torch.linalg.matrix_norm(torch.func.jacrev(map)(torch.zeros(*size).double()).flatten(2).flatten(0, 1), 2)
    )
    phases = pad(kernel, (0, -size % stride)).unflatten(2, (-1, stride)).transpose(2, 3).flatten(1, 2)
    strided = norm(lambda x: conv(x, kernel, stride=stride), 2, 12)
    sorted_phases = norm(lambda x: conv(x, phases), 2 * stride, 12 // stride)
    padded = norm(lambda x: conv(x, kernel, padding=seed % 3), 2, 5)
    ring = norm(lambda x: conv(pad(x, (size - 1, 0), "circular"), kernel), 2, 5 + 2 * (seed % 3) + size)
    return [(strided, sorted_phases), (padded, ring)]


PROOF = Proof(
    name="Convolutions",
    title="Stride and zero padding",
    words="A convolution `S` with stride has the norm of the convolution `A` that reads its entries sorted by "
    "phase; one with zero padding, `Z`, at most that of the circular one, `C`, on a torus that is large enough.",
    reference=Reference("fimtheory"),
    spaces={
        S: ("x", "y"), A: ("phases", "y"), P: ("x", "phases"), Z: ("x", "z"), C: ("X", "Z"), E: ("x", "X"),
        F: ("z", "Z"),
    },
    hypotheses=(
        Hypothesis("S", equal(S, A * P), "`S` sorts its input by phase (space to depth) and convolves with stride "
        "1."),
        Hypothesis("Z", equal(Z, transpose(F) * C * E), "`Z` extends by zeros, convolves on the torus, and crops."),
        Hypothesis("P", equal(transpose(P) * P, 1), "`P` permutes entries.", definition=True),
        Hypothesis("P^T", equal(P * transpose(P), 1), "`P` permutes entries.", definition=True),
        Hypothesis("E", equal(transpose(E) * E, 1), "To extend by zeros and to crop changes nothing.", definition=True),
        Hypothesis("F", equal(transpose(F) * F, 1), "To extend by zeros and to crop changes nothing.", definition=True),
    ),
    steps=(
        Step("one", least(Norm(1), 1), "unit identity"),
        *(
            step
            for each, name in ((P, "P"), (transpose(P), "P^T"), (E, "E"), (F, "F"))
            for step in (
                Step(f"unit {name}", least(Norm(transpose(each) * each), 1), "replacement", ("one", name)),
                Step(f"gram {name}", equal(Norm(transpose(each) * each), Norm(each) ** 2), "gram"),
                Step(f"short {name}", least(Norm(each), 1), "arithmetic", (f"unit {name}", f"gram {name}")),
            )
        ),
        Step("product", least(Norm(A * P), Norm(A) * Norm(P)), "submultiplicative"),
        Step("sorted", least(Norm(A * P), Norm(A)), "arithmetic", ("product", "short P")),
        Step("at most", least(Norm(S), Norm(A)), "replacement", ("sorted", "S")),
        Step("back", equal(A, S * transpose(P)), "expansion", ("S", "P^T")),
        Step("factors", least(Norm(S * transpose(P)), Norm(S) * Norm(transpose(P))), "submultiplicative"),
        Step("unsorted", least(Norm(S * transpose(P)), Norm(S)), "arithmetic", ("factors", "short P^T")),
        Step("at least", least(Norm(A), Norm(S)), "replacement", ("unsorted", "back")),
        Step("stride", equal(Norm(S), Norm(A)), "arithmetic", ("at most", "at least")),
        Step("crop", equal(Norm(transpose(F)), Norm(F)), "transposition"),
        Step("three", least(Norm(transpose(F) * C * E), Norm(transpose(F)) * Norm(C) * Norm(E)), "submultiplicative"),
        Step("ends", least(Norm(transpose(F)) * Norm(E), 1), "arithmetic", ("crop", "short E", "short F")),
        Step("torus", least(Norm(transpose(F)) * Norm(C) * Norm(E), Norm(C)), "arithmetic", ("ends",)),
        Step("cropped", least(Norm(transpose(F) * C * E), Norm(C)), "arithmetic", ("three", "torus")),
        Step("padding", least(Norm(Z), Norm(C)), "replacement", ("cropped", "Z")),
    ),
    conclusions=("stride", "padding"),
    trial=trial,
)  # fmt: skip
