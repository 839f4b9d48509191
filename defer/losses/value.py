"""What every loss returns, and how a formula that is written once is evaluated on NumPy arrays and on torch tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from defer.exceptions import LossInputError
from defer.losses.inputs import as_beside, detached

__all__ = ["Formula", "LossValue"]

Array = Any
Namespace = Any

# Numbers of a block of rows: with a handful of temporaries of this size the work stays in the cache.
_BLOCK = 2**14


@dataclass(frozen=True, slots=True)
class Formula:
    """A loss on arrays that were checked: scores first, then what belongs to the rows (costs, labels, weights per class).

    Parameters
    ----------
    name : str
        The public function that the formula belongs to, for messages.
    value : callable
        ``value(xp, scores, *tables)`` gives the (n,) losses.
    gradient : callable
        ``gradient(xp, scores, *tables)`` gives their derivatives by the scores, of the shape of `scores`.
    hessian : callable, optional
        ``hessian(xp, scores, vector, *tables)`` gives the product of each sample's Hessian with its row of `vector`.

    Examples
    --------
    >>> square = Formula("square", lambda xp, scores: scores**2, lambda xp, scores: 2 * scores)
    >>> LossValue(square, np.array([1.0, 3.0])).gradient.tolist()
    [2.0, 6.0]
    """

    name: str
    value: Callable[..., Array]
    gradient: Callable[..., Array]
    hessian: Callable[..., Array] | None = None


class LossValue:
    """Loss of every sample, with its analytic gradient.

    Parameters
    ----------
    formula : Formula
        What is evaluated.
    scores : array of shape (n,) or (n, m)
        NumPy array or torch tensor, float32 or float64.
    tables : tuple of arrays with n rows
        Costs, labels or weights per class, in the same namespace as `scores`.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Attributes
    ----------
    value : array of shape (n,)
        Loss of every sample times its weight, in the dtype of the scores; for torch it can be differentiated.  A training
        loss is ``value.sum() / weight.sum()`` or ``value.mean()``: a sample whose loss is constant keeps its place in the
        denominator.

    Examples
    --------
    >>> from defer.losses import cross_entropy
    >>> loss = cross_entropy(np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([0, 0]), weight=np.array([1.0, 2.0]))
    >>> loss.value
    array([0.69314718, 4.25385602])
    >>> loss.gradient
    array([[-0.5       ,  0.5       ],
           [-1.76159416,  1.76159416]])
    >>> loss.hessian_product(np.array([[1.0, 0.0], [0.0, 0.0]]))
    array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]])
    """

    __slots__ = ("_formula", "_gradient", "_scores", "_tables", "_weight", "value")

    def __init__(
        self, formula: Formula, scores: Array, tables: tuple[Array, ...] = (), weight: Array | None = None
    ) -> None:
        self._formula, self._scores, self._tables, self._weight = formula, scores, tables, weight
        self._gradient: Array | None = None
        # Adding 0 turns the -0.0 of a sum without terms into the 0.0 that it is.
        self.value: Array = self._weighted(_evaluate(formula.value, scores, tables, per_row=True) + 0.0)

    def __repr__(self) -> str:
        return f"LossValue({self._formula.name}, n={self.value.shape[0]})"

    @property
    def gradient(self) -> Array:
        """Derivative of every entry of `value` by that sample's scores, of the shape of the scores; never a graph of torch."""
        if self._gradient is None:
            scores = detached(self._scores)
            self._gradient = self._weighted(_evaluate(self._formula.gradient, scores, self._tables))
        return self._gradient

    def hessian_product(self, vector: Array) -> Array:
        """Product of every sample's Hessian with its row of a vector.

        Parameters
        ----------
        vector : array of the shape of the scores
            One direction per sample.

        Returns
        -------
        array of the shape of the scores

        Raises
        ------
        LossInputError
            If the loss has no cheap Hessian, or the vector is no array of numbers of this shape.
        """
        if self._formula.hessian is None:
            raise LossInputError(
                f"{self._formula.name}: has no cheap Hessian product; take differences of `gradient`, or a method that needs "
                "gradients only, such as L-BFGS"
            )
        vector = as_beside(self._formula.name, "vector", vector, self._scores)
        if tuple(vector.shape) != tuple(self._scores.shape):
            raise LossInputError(
                f"{self._formula.name}: vector has shape {tuple(vector.shape)}; it needs that of the scores, "
                f"{tuple(self._scores.shape)}"
            )
        return self._weighted(_evaluate(self._formula.hessian, detached(self._scores), (vector, *self._tables)))

    def _weighted(self, rows: Array) -> Array:
        if self._weight is None:
            return rows
        weight = self._weight if rows.ndim == 1 else self._weight[:, None]
        if is_numpy_array(rows):
            rows *= weight  # freshly made here; a second table of this size would only cost memory
            return rows
        return rows * weight


def _evaluate(part: Callable[..., Array], scores: Array, tables: tuple[Array, ...], *, per_row: bool = False) -> Array:
    """One part of a formula: at once for torch, whose graph wants it whole; in blocks of rows for NumPy."""
    xp = array_namespace(scores)
    if not is_numpy_array(scores):
        return part(xp, scores, *tables)
    # Blocks are laid out by column: reductions over a handful of columns then run along the rows, which is several times
    # as fast, and a row's result does not depend on the rows beside it.
    n = scores.shape[0]
    out = np.empty(scores.shape[:1] if per_row else scores.shape, dtype=scores.dtype)
    step = max(1, _BLOCK // max(1, scores[:1].size))
    for low in range(0, n, step):
        rows = slice(low, low + step)
        block = (_by_column(table[rows], scores.dtype) for table in tables)
        out[rows] = part(xp, _by_column(scores[rows], scores.dtype), *block)
    return out


def _by_column(block: Array, dtype: Any) -> Array:
    return np.asarray(block, dtype=None if block.dtype.kind in "iu" else dtype, order="F")
