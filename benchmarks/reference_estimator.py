"""The usual way to lam(x), from its description: K backward passes per input, a Gram matrix, its largest eigenvalue.

And what the public code of the paper reports as the spectral norm: the largest of 100 random Rayleigh quotients of
that matrix.  Both are here to be compared with; neither is used by the package.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["k_backward_lam", "random_quotients"]


def _score_rows(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return p ``(K,)`` and the rows ``grad log p_y`` ``(K, d)`` at one input ``(1, *input)``."""
    x = x.clone().requires_grad_()
    log_probs = module(x).log_softmax(1)[0]
    rows = [torch.autograd.grad(each, x, retain_graph=True)[0].flatten() for each in log_probs]
    return log_probs.detach().exp(), torch.stack(rows)


def k_backward_lam(module: nn.Module, x: Tensor) -> float:
    """Return lam at one input by K backward passes and the ``K x K`` Gram matrix of ``sqrt(p_y) grad log p_y``."""
    probs, rows = _score_rows(module, x)
    weighted = probs.sqrt().unsqueeze(1) * rows
    return torch.linalg.eigvalsh(weighted @ weighted.T)[-1].item()


def random_quotients(module: nn.Module, x: Tensor, vectors: int = 100, seed: int = 0) -> float:
    """Return the largest of ``u^T G u`` over random unit vectors u in the space of the classes, at one input."""
    probs, rows = _score_rows(module, x)
    u = torch.randn(len(probs), vectors, generator=torch.Generator().manual_seed(seed)).to(rows)
    u = u / u.norm(dim=0)
    return (rows.T @ (probs.sqrt().unsqueeze(1) * u)).square().sum(0).max().item()
