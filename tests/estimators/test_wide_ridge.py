"""Ridge for wide sparse queries: scikit-learn's solution, whoever finds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array, csr_matrix, random_array
from sklearn.linear_model import Ridge

from defer.estimators import wide_ridge as module
from defer.estimators.wide_ridge import WideRidge

RNG = np.random.default_rng(0)
WIDE = csr_array(random_array((60, 300), density=0.1, rng=RNG))
TARGETS = RNG.normal(size=(60, 3))


@pytest.mark.parametrize("columns", [0, 1, slice(None)])
@pytest.mark.parametrize("weight", [None, RNG.integers(0, 4, size=60).astype(float)])
@pytest.mark.parametrize("alpha", [0.01, 30.0])
def test_the_solution_is_that_of_the_dense_problem(columns: Any, weight: Any, alpha: float) -> None:
    y = TARGETS[:, columns]
    exact = Ridge(alpha=alpha, solver="svd").fit(WIDE.toarray(), y, sample_weight=weight)
    wide = WideRidge(alpha=alpha).fit(WIDE, y, sample_weight=weight)
    assert wide.solver_ == "cholesky"
    assert_allclose(wide.coef_, exact.coef_, atol=1e-9)
    assert_allclose(wide.intercept_, exact.intercept_, atol=1e-9)
    assert_allclose(wide.predict(WIDE), exact.predict(WIDE.toarray()), atol=1e-9)


@pytest.mark.parametrize("X", [WIDE.toarray(), WIDE[:, :40]], ids=["dense", "narrow"])
def test_other_problems_are_left_to_scikit_learn(X: Any) -> None:
    assert_allclose(WideRidge(tol=1e-10).fit(X, TARGETS).coef_, Ridge(tol=1e-10).fit(X, TARGETS).coef_)


def test_too_many_rows_are_left_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = WideRidge(tol=1e-12).fit(WIDE, TARGETS)
    monkeypatch.setattr(module, "_MOST_ROWS", 59)
    iterated = WideRidge(tol=1e-12).fit(WIDE, TARGETS)
    assert iterated.solver_ != "cholesky"
    assert_allclose(iterated.coef_, direct.coef_, atol=1e-6)


def test_short_texts_and_few_targets_are_left_to_scikit_learn() -> None:
    thin = csr_array((np.ones(2000), np.arange(2000), np.arange(2001)), shape=(2000, 2001))
    assert WideRidge().fit(thin, RNG.normal(size=2000)).solver_ != "cholesky"


def test_bad_input_is_refused() -> None:
    wrong = csr_matrix(WIDE)
    wrong.data[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        WideRidge().fit(wrong, TARGETS)
