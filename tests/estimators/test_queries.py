from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from defer.estimators import QualityRouter, SingleArm
from defer.estimators.embeddings import SentenceEmbedder
from defer.estimators.queries import (
    check_texts,
    is_numeric_input,
    is_plain_table,
    n_queries,
    read_texts,
    text_groups,
)
from defer.estimators.text_shape import TextShape
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


class Prepared(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer that says nothing of texts."""


@pytest.mark.parametrize(
    "column", [list, tuple, np.array, pd.Series, pl.Series, iter, lambda texts: np.array(texts, dtype=object)]
)
def test_texts_are_read_from_any_column(column: Any) -> None:
    assert read_texts(column(TEXTS), owner="Reader") == TEXTS


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("one", r"Reader: X must be a list of texts, got one str; write \[text\]"),
        (3, "Reader: X must be a list of texts, got int"),
        ({"prompt": TEXTS}, "Reader: X must be a list of texts, got dict"),
        (np.zeros((2, 3)), r"Reader: X must be a list of texts, got ndarray of shape \(2, 3\)"),
        (sparse.csr_array(np.eye(2)), r"Reader: X must be a list of texts, got csr_array of shape \(2, 2\)"),
        (np.zeros(2), "2 of 2 are none, the first is .*0.0.* in row 0; drop these rows or make texts of them"),
        (["a", None, float("nan")], "Reader: X must be a list of texts, 2 of 3 are none, the first is None in row 1"),
        (pd.Series(["a", np.nan]), "1 of 2 are none, the first is nan in row 1"),
        (pl.Series(["a", None]), "1 of 2 are none, the first is None in row 1"),
        (["a", list(range(1000))], r"the first is \[0, 1, .{60,70}\.\.\. in row 1"),
        (pd.DataFrame({"prompt": ["a"]}), r"a frame with the columns \['prompt'\]; .* such as frame\['prompt'\]"),
        (pl.DataFrame({"q": ["a"]}), r"a frame with the columns \['q'\]; .* such as frame\['q'\]"),
        (pl.DataFrame({"q": ["a"], "n": [1]}).lazy(), r"with the columns \['q', 'n'\]; .* such as frame\['prompt'\]"),
    ],
)
def test_what_is_no_column_of_texts_is_named(X: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        read_texts(X, owner="Reader")


@pytest.mark.parametrize("reader", [TextShape(), SentenceEmbedder("/no/model")])
def test_one_frame_of_one_text_is_not_read_as_the_name_of_its_column(reader: Any) -> None:
    name = type(reader).__name__
    with pytest.raises(RouterInputError, match=rf"{name}: X must be a list of texts, got a frame .* frame\['prompt'\]"):
        reader.fit(["a"]).transform(pd.DataFrame({"prompt": ["a"]})) if name == "TextShape" else reader.transform(
            pd.DataFrame({"prompt": ["a"]})
        )


@pytest.mark.parametrize(
    "step",
    [
        TfidfVectorizer(),
        HashingVectorizer(),
        TextShape(),
        Pipeline([("count", CountVectorizer()), ("weigh", TfidfTransformer())]),
        FeatureUnion([("words", TfidfVectorizer()), ("shape", TextShape())]),
    ],
)
def test_steps_that_read_texts_get_texts(step: Any) -> None:
    check_texts(step, TEXTS, owner="Router")
    check_texts(step, pd.Series(TEXTS), owner="Router")
    for X in ([1.0, 2.0], np.zeros((2, 1)), ["a", None], pd.DataFrame({"prompt": ["a"]})):
        with pytest.raises(RouterInputError, match="Router: X must be a list of texts"):
            check_texts(step, X, owner="Router")
    with pytest.raises(RouterInputError, match=r"0 sample\(s\)"):
        check_texts(step, [], owner="Router")


@pytest.mark.parametrize(
    "step",
    [
        Prepared(),
        StandardScaler(),
        CountVectorizer(analyzer=list),
        CountVectorizer(preprocessor=str),
        CountVectorizer(tokenizer=list),
        CountVectorizer(input="file"),
        FunctionTransformer(),
    ],
)
def test_steps_that_may_take_anything_get_anything(step: Any) -> None:
    for X in ([1.0, 2.0], np.zeros((2, 1)), [{"a": 1}], pd.DataFrame({"prompt": ["a"]})):
        check_texts(step, X, owner="Router")


def test_a_vectoriser_may_be_given_bytes() -> None:
    check_texts(CountVectorizer(), [b"a", "b"], owner="Router")
