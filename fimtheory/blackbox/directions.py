"""Unit vectors along which a black box is probed, and what each counts."""

from __future__ import annotations

import math

import numpy as np

from fimtheory.blackbox.plan import Plan

__all__ = ["Directions"]


class Directions:
    """Directions of one input, the same for the same seed however they are grouped.

    Of a sketch they are ``v / |v|`` with v standard normal, and the derivative along each counts ``|v|`` times: every
    probe moves the input equally far, and the columns of the sketch are those of normal vectors.  A basis is uniform
    among the orthonormal ones, so that its first few directions say about all of them what they would for random ones;
    there each derivative counts ``sqrt(d)`` times.

    Parameters
    ----------
    size : int
        d.
    plan : Plan
        Its method and its number of probes.
    seed, index : int
        Of the run, and of the input in it.
    """

    def __init__(self, size: int, plan: Plan, seed: int, index: int) -> None:
        self._generator = np.random.default_rng([seed, index])
        self._size = size
        self._basis: np.ndarray | None = None
        self._given = 0
        if plan.method == "basis":
            q, r = np.linalg.qr(np.random.default_rng([seed, index, 1]).standard_normal((size, size)))
            self._basis = (q * np.sign(np.diagonal(r))).T

    def next(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(count, d)`` unit vectors and their weights ``(count,)``."""
        if self._basis is None:
            return self.random(count)
        self._given += count
        return self._basis[self._given - count : self._given], np.full(count, math.sqrt(self._size))

    def random(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return unit vectors that are uniform on the sphere, and the norms of their normal vectors."""
        v = self._generator.standard_normal((count, self._size))
        norm = np.linalg.norm(v, axis=1)
        return v / norm[:, None], norm
