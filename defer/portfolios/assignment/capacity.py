"""Assignment under a count per arm: a transport problem, solved once per criterion until no tie is left.

Source: linear programming duality; the constraint matrix is totally unimodular, so every vertex is integral, and the
optimal assignments are those on the cells of reduced cost zero that fill every arm with a positive multiplier.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fill_arms"]

# Reduced costs and multipliers of the scaled problem that count as zero.
_ZERO = 1e-9


def fill_arms(
    utility: NDArray[np.float64], cost: NDArray[np.float64], capacity: NDArray[np.float64]
) -> tuple[NDArray[np.intp], float]:
    """Assignment of largest total utility; of several the cheapest, of several of these the one of lowest indexes.

    Parameters
    ----------
    utility, cost : arrays of shape (n, m)
    capacity : array of shape (m,)
        Queries that each arm takes at most; sums to at least n.

    Returns
    -------
    arm : int array of shape (n,)
    price : float
        Largest multiplier: utility that one more place would bring.

    Examples
    --------
    >>> arm, price = fill_arms(np.array([[0.0, 0.9], [0.0, 0.4]]), np.zeros((2, 2)), np.array([2.0, 1.0]))
    >>> arm.tolist(), round(price, 3)
    ([1, 0], 0.4)
    """
    n, m = utility.shape
    query, arm = (index.ravel() for index in np.indices((n, m)))
    full, result, price = np.zeros(m, dtype=bool), np.zeros(n, dtype=np.intp), 0.0
    for name, criterion in (("utility", utility), ("cost", -cost), ("index", np.tile(-np.arange(float(m)), (n, 1)))):
        # Adding a constant to a row changes no assignment, and the solver's tolerances want numbers near 1.
        value = (criterion - criterion.max(axis=1, keepdims=True))[query, arm]
        scale = float(np.abs(value).max()) or 1.0
        result, tight, multiplier = _solve(value / scale, query, arm, capacity, full)
        if name == "utility":
            price = float(multiplier.max()) * scale
        full |= multiplier > _ZERO
        query, arm = query[tight], arm[tight]
        if len(query) == n:
            break
    return result, price


def _solve(
    value: NDArray[np.float64],
    query: NDArray[np.intp],
    arm: NDArray[np.intp],
    capacity: NDArray[np.float64],
    full: NDArray[np.bool_],
) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.float64]]:
    """One criterion on the cells that are left: the arms, which cells every optimum stays on, the arms' multipliers."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, vstack

    n, m, cell = int(query.max()) + 1, len(capacity), np.arange(len(query))
    one_each = csr_array((np.ones(len(cell)), (query, cell)), shape=(n, len(cell)))
    load = csr_array((np.ones(len(cell)), (arm, cell)), shape=(m, len(cell)))
    solution = linprog(
        -value,
        A_ub=load[~full] if not full.all() else None,
        b_ub=capacity[~full] if not full.all() else None,
        A_eq=vstack([one_each, load[full]]),
        b_eq=np.concatenate((np.ones(n), capacity[full])),
        bounds=(0, None),
        method="highs-ds",
        options={"dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0:
        raise RuntimeError(f"the linear program of a capacity ended with: {solution.message}")
    chosen = solution.x > 0.5
    result = np.zeros(n, dtype=np.intp)
    result[query[chosen]] = arm[chosen]
    multiplier = np.zeros(m)
    if not full.all():
        multiplier[~full] = np.maximum(0.0, -solution.ineqlin.marginals)
    return result, solution.lower.marginals <= _ZERO, multiplier
