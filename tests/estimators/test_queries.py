from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from defer.estimators import QualityRouter, SingleArm
from defer.estimators.queries import is_numeric_input, is_plain_table, n_queries, text_groups
from defer.exceptions import RouterInputError

TEXTS = ["b", "a", "b"]
MIXED = pd.DataFrame({"n": [1.0, 2.0, 3.0], "t": TEXTS})


@pytest.mark.parametrize(
    ("X", "numeric", "plain", "groups"),
    [
        (TEXTS, False, False, [1, 0, 1]),
        (tuple(TEXTS), False, False, [1, 0, 1]),
        (np.array(TEXTS), False, False, [1, 0, 1]),
        (np.array(TEXTS, dtype=object), False, False, [1, 0, 1]),
        (pd.Series(TEXTS), False, False, [1, 0, 1]),
        (pl.Series(TEXTS), False, False, [1, 0, 1]),
        ([{"a": 1}, {"a": 2}, {"a": 1}], False, False, None),
        (MIXED, False, True, None),
        (pl.from_pandas(MIXED), False, True, None),
        (pa.Table.from_pandas(MIXED), False, True, None),
        (MIXED[["n"]], True, True, None),
        (pd.Series([1.0, 2.0, 3.0]), True, False, None),
        ([[1.0], [2.0], [3.0]], True, False, None),
        (np.ones((3, 2)), True, True, None),
        (np.ones((3, 2), dtype=int), True, False, None),
        (np.array([["a"], ["b"], ["c"]]), False, False, None),
        (sparse.csr_array(np.ones((3, 2))), True, True, None),
        (sparse.csc_array(np.ones((3, 2))), True, False, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_queries(X: Any, numeric: bool, plain: bool, groups: list[int] | None) -> None:
    assert is_numeric_input(X) is numeric
    assert is_plain_table(X) is plain
    assert n_queries(X) == 3
    found = text_groups(X)
    assert (None if found is None else found.tolist()) == groups


def test_one_text_is_no_batch() -> None:
    router = SingleArm().fit(TEXTS, [[1.0, 0.0]] * 3)
    with pytest.raises(RouterInputError, match="X is one str; a router takes a batch: pass a list of texts"):
        router.predict("hello")
    assert text_groups("hello") is None


@pytest.mark.parametrize("X", [[], np.empty((0, 2)), MIXED[:0]])
def test_an_empty_batch_is_refused(X: Any) -> None:
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        SingleArm().fit(X, np.ones((0, 2)))
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        QualityRouter().fit(X, np.ones((0, 2)))


def test_a_refit_on_text_forgets_the_features_of_a_table() -> None:
    router = SingleArm().fit(MIXED[["n"]], [[1.0, 0.0]] * 3)
    assert router.n_features_in_ == 1
    router.fit(TEXTS, [[1.0, 0.0]] * 3)
    assert not hasattr(router, "n_features_in_")
    assert not hasattr(router, "feature_names_in_")
