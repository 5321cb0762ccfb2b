"""Optimum of the matrix inequality behind a semidefinite bound, by an interior-point solver: a number, no bound."""

from __future__ import annotations

import math

import clarabel
import numpy as np
import torch
from scipy import sparse

from fimtheory.instantiation import GraphModule
from fimtheory.local.balls import Ball
from fimtheory.local.passes import passes
from fimtheory.local.walk import Walk
from fimtheory.slopes import slopes_of


def interconnection(module: GraphModule):
    """Unknown slopes of the whole network, and the rows of the logits, without moving activations."""

    def everywhere(name, layer, form):
        return tuple(torch.full_like(form.centre, float(end)) for end in slopes_of(layer))

    with torch.no_grad():
        centre = torch.zeros(tuple(module.graph.shapes[module.graph.input]), dtype=torch.float64)
        walk = Walk.at(module.graph, passes(module), Ball(centre, 0.0, "l2"))
        rows = walk.run(everywhere).rows()
    return walk.system, rows


def optimum(system, rows) -> float:
    """Least ``max_ij (e_i - e_j)^T Y (e_i - e_j)`` over Y and T with ``R diag(I, T) R^T <= diag(Y, T)``.

    Unknowns are the maximum, the upper triangle of Y and T; both sides are given to the solver as triangles of matrices
    with entries off the diagonal times sqrt(2).
    """
    n, m, inputs = len(system), len(rows.values), system.inputs
    whole = torch.cat([rows.padded(inputs + n).values, system.rows.values]).numpy()
    second, first = np.tril_indices(m + n)
    weight = np.where(first == second, 1.0, math.sqrt(2.0))

    def triangle(matrix):
        return matrix[first, second] * weight

    of_y = [(i, j) for j in range(m) for i in range(j + 1)]
    position = {pair: 1 + k for k, pair in enumerate(of_y)}
    columns = [np.zeros(len(first))]
    for i, j in of_y:
        unit = np.zeros((m + n, m + n))
        unit[i, j] = unit[j, i] = 1.0
        columns.append(triangle(unit))
    for k in range(n):
        change = -np.outer(whole[:, inputs + k], whole[:, inputs + k])
        change[m + k, m + k] += 1.0
        columns.append(triangle(change))
    pairs = [(i, j) for i, j in of_y if i < j]
    largest = np.zeros((len(pairs), len(columns)))
    for row, (i, j) in zip(largest, pairs, strict=True):
        row[0], row[position[i, i]], row[position[j, j]], row[position[i, j]] = 1.0, -1.0, -1.0, 2.0
    matrix = sparse.csc_matrix(-np.concatenate([largest, np.stack(columns, 1)]))
    offset = np.concatenate([np.zeros(len(pairs)), -triangle(whole[:, :inputs] @ whole[:, :inputs].T)])
    objective = np.eye(1, len(columns))[0]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.NonnegativeConeT(len(pairs)), clarabel.PSDTriangleConeT(m + n)]
    nothing = sparse.csc_matrix((len(columns), len(columns)))
    found = clarabel.DefaultSolver(nothing, objective, matrix, offset, cones, settings).solve()
    assert str(found.status) in ("Solved", "AlmostSolved"), found.status  # to about 1e-8, or 1e-5
    return float(found.x[0])
