"""Ridge regression of many targets on sparse queries with more features than rows, exactly and at once.

scikit-learn solves such problems by conjugate gradients, one target after the other.  With fewer rows than features the solution
lies in the span of the rows: one Cholesky factor of the (n, n) kernel serves all targets.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import issparse
from sklearn.linear_model import Ridge
from sklearn.utils.validation import validate_data

__all__ = ["WideRidge"]

# Above it the kernel of n x n needs more memory than the queries do.
_MOST_ROWS = 4096
# A factor takes n^3 / 3 operations at the speed of dense products; conjugate gradients take some 30 passes over the nonzero
# cells for every target, at a tenth of that speed.
_PASSES = 1000
# Share of the rows in which a feature must stand to be common.
_COMMON = 0.05


class WideRidge(Ridge):  # type: ignore[misc]
    """`sklearn.linear_model.Ridge` with a direct solution for sparse queries that are wider than they are many.

    Parameters
    ----------
    alpha : float, default=1.0
    fit_intercept, copy_X, max_iter, tol, solver, positive, random_state
        As for `Ridge`; those of its solvers count where it solves the problem itself.

    Notes
    -----
    Direct for sparse X of n <= 4,096 rows and more than n features, where n^3 is at most 1,000 times the nonzero cells times
    the targets: O(n^2) memory, and O(n^3) time for all targets together.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> X, y = csr_array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), [0.0, 1.0]
    >>> bool(np.allclose(WideRidge().fit(X, y).coef_, Ridge(tol=1e-12).fit(X, y).coef_))
    True
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit, directly where that pays.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
        y : array of shape (n,) or (n, k)
        sample_weight : array of shape (n,), optional
        """
        plain = self.fit_intercept and not self.positive and np.ndim(self.alpha) == 0 and self.alpha > 0
        if not (plain and issparse(X) and _pays(X, 1 if np.ndim(y) < 2 else np.shape(y)[1])):
            return super().fit(X, y, sample_weight=sample_weight)
        X, targets = validate_data(self, X, y, accept_sparse="csr", multi_output=True, y_numeric=True, dtype=np.float64)
        weight = np.ones(len(targets)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        share = weight / weight.sum()
        mean, level = np.asarray(share @ X).ravel(), share @ targets
        root = np.sqrt(weight)
        # Of centred rows, without making them: K - K s 1' - 1 s' K + s' K s.
        kernel = _gram(X)
        towards = kernel @ share
        kernel += share @ towards
        kernel -= towards[:, None] + towards
        kernel *= root[:, None] * root
        kernel[np.diag_indices_from(kernel)] += self.alpha
        beyond = (targets - level) * (root if targets.ndim == 1 else root[:, None])
        dual = cho_solve(
            cho_factor(kernel, lower=True, overwrite_a=True, check_finite=False), beyond, check_finite=False
        )
        dual *= root if dual.ndim == 1 else root[:, None]
        self.coef_ = np.asarray(X.T @ dual).T - (np.multiply.outer(dual.sum(axis=0), mean))
        self.intercept_ = level - self.coef_ @ mean
        self.n_iter_, self.solver_ = None, "cholesky"
        return self


def _pays(X: Any, n_targets: int) -> bool:
    n, d = X.shape
    return bool(n <= _MOST_ROWS and n < d and float(n) ** 3 <= float(_PASSES) * n_targets * X.nnz)


def _gram(X: Any) -> NDArray[np.float64]:
    """X X', shape (n, n): common features by a dense product, since every pair of rows that share one costs a step."""
    n = X.shape[0]
    common = np.bincount(X.indices, minlength=X.shape[1]) > _COMMON * n
    dense = X[:, np.flatnonzero(common)].toarray()
    rare = X[:, np.flatnonzero(~common)]
    return np.asarray((rare @ rare.T).toarray()) + dense @ dense.T
