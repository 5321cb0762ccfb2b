"""C6: a linear map and what is linear behind it are one map, whose norm is at most the product of norms."""

import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

S, A = operator("S"), operator("A")
b, t, x, x_copy, y, y_copy = (operator(name) for name in ("b", "t", "x", "x'", "y", "y'"))


def trial(seed: int) -> list[tuple[float, float]]:
    """Run a convolution and its batch norm in torch, along its top direction at times; norms are from autograd."""
    torch.manual_seed(seed)
    convolution = torch.nn.Conv1d(2, 3, 3, padding=1, dtype=torch.float64)
    batch_norm = torch.nn.BatchNorm1d(3, dtype=torch.float64).eval()
    for each in (batch_norm.weight.data, batch_norm.bias.data, batch_norm.running_mean):
        assert each is not None
        each.normal_()
    both = torch.nn.Sequential(convolution, batch_norm).requires_grad_(False)
    x, x_copy = torch.randn(2, 1, 2, 4, dtype=torch.float64)
    folded, first = (torch.func.jacrev(module)(x).reshape(12, 8) for module in (both, convolution))
    if seed % 2 == 0:
        x_copy = x + torch.linalg.svd(folded)[2][0].reshape(1, 2, 4)
    norm = lambda matrix: float(torch.linalg.matrix_norm(matrix, 2))  # noqa: E731
    scales = float((batch_norm.weight / (1 + batch_norm.eps) ** 0.5).abs().max())
    change = float((both(x) - both(x_copy)).norm())
    return [(change, norm(folded) * float((x - x_copy).norm())), (norm(folded), scales * norm(first))]


PROOF = Proof(
    name="C6",
    title="Folding",
    words="For y = S (A x + b) + t, as a convolution and its batch norm, L <= ||S A|| <= ||S|| ||A||.",
    reference=Reference("horn2013", "section 5.6"),
    spaces={
        A: ("x", "z"), S: ("z", "y"), b: ("1", "z"), t: ("1", "y"),
        **dict.fromkeys((x, x_copy), ("1", "x")), **dict.fromkeys((y, y_copy), ("1", "y")),
    },
    hypotheses=(
        Hypothesis("y", equal(y, S * (A * x + b) + t), "The output at x.", definition=True),
        Hypothesis("y'", equal(y_copy, S * (A * x_copy + b) + t), "The output at x'.", definition=True),
    ),
    steps=(
        Step("difference", equal(y - y_copy, S * A * (x - x_copy)), "expansion", ("y", "y'")),
        Step("applied", least(Norm(S * A * (x - x_copy)), Norm(S * A) * Norm(x - x_copy)), "submultiplicative"),
        Step("folded", least(Norm(y - y_copy), Norm(S * A) * Norm(x - x_copy)), "replacement",
             ("applied", "difference")),
        Step("better", least(Norm(S * A), Norm(S) * Norm(A)), "submultiplicative"),
    ),
    conclusions=("folded", "better"),
    trial=trial,
)  # fmt: skip
