"""The shape of texts: every number against a plain reading of one text at a time, odd texts, and the transformer's contract."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion

from defer.estimators import QualityRouter, make_pipeline, text_shape
from defer.estimators.text_shape import TextShape
from defer.exceptions import RouterInputError
from defer.model_file import model_bytes, model_from_bytes


def plainly(text: str) -> dict[str, float]:
    """The numbers as the docstring states them, by ordinary functions on one text."""
    words, ink = text.split(), [sign for sign in text if not sign.isspace()]
    kinds = [unicodedata.category(sign) for sign in text]
    most = max(len(ink), 1)
    lines = re.split("[\n\r]", text)
    runs = re.findall(r"\d(?:\d|(?<=\d)[.,'](?=\d))*", text)
    closings = re.findall(r"[.!?؟।](?=\s|$)|[。！？]", text)

    def share(flags: list[bool]) -> float:
        return sum(flags) / most

    def count(signs: str) -> float:
        return np.log1p(sum(sign in signs for sign in text))

    return {
        "characters": np.log1p(len(text)),
        "words": np.log1p(len(words)),
        "lines": np.log1p(sum(bool(line.split()) for line in lines)),
        "word_length": np.log1p(len(ink) / max(len(words), 1)),
        "longest_word": np.log1p(max(map(len, words), default=0)),
        "sentence_length": np.log1p(len(words) / max(len(closings), 1)),
        "digits": share([kind == "Nd" for kind in kinds]),
        "upper_case": share([kind in ("Lu", "Lt") for kind in kinds]),
        "lower_case": share([kind == "Ll" for kind in kinds]),
        "punctuation": share([kind[0] == "P" for kind in kinds]),
        "commas": share([sign in ",，،、" for sign in text]),
        "full_stops": share([sign in ".。।" for sign in text]),
        "maths": share([kind == "Sm" or sign in "*/^" for kind, sign in zip(kinds, text, strict=True)]),
        "non_ascii": share([ord(sign) > 127 for sign in ink]),
        "numbers": np.log1p(len(runs)),
        "longest_number": np.log1p(max((len(re.findall(r"\d", run)) for run in runs), default=0)),
        "question_marks": count("?？؟;՞"),
        "asks_last": float(bool(ink) and ink[-1] in "?？؟;՞"),
        "braces": count("{}[]<>"),
        "code_marks": count(";=_#|&@~"),
        "indented_lines": np.log1p(sum(line.startswith(("\t", "  ")) for line in lines)),
        "backslashes": count("\\"),
        "dollars": count("$"),
        "quotes": count("\"'`“”‘’«»„‹›「」『』"),
        "options": np.log1p(sum(bool(re.match(r"\(?([A-Za-z]|\d)[.):](?=\s|$)", line)) for line in lines)),
        "capitalised": sum(unicodedata.category(word[0]) in ("Lu", "Lt") for word in words) / max(len(words), 1),
    }


def numbers_of(texts: list[str]) -> np.ndarray:
    return TextShape(standardize=False).fit(texts).transform(texts)


SAMPLES = [
    "Find the degree of Q(sqrt(2)) over Q.\nA. 0\nB. 4\n(C) 2\nd) 6\n5: 1.000.000,5\nAnswer:",
    "",
    "   ",
    "\n\n",
    "What is 12 + 7?",
    "def f(x):\n    return {x: '1,000'}\n\tpass\r\n  # 3.14.",
    "汉字？还有！",
    r"Let $x^2 \leq \frac{1}{2}$; is x ≥ 0?  ",
    "\ud800 lone",
    "\x00\x1f\x7f",
    "Ǆ ªº ١٢٣ ½ 👍🏽",
    "7",
    "1..2 ,3, '4' 5,6",
    "A.",
    "A.b",
    "x" * 1000 + " " + "9" * 500,
    "؟ «¿Qué?»",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_every_number_is_what_the_docstring_says(text: str) -> None:
    names = TextShape().get_feature_names_out().tolist()
    assert dict(zip(names, numbers_of([text])[0].tolist(), strict=True)) == pytest.approx(plainly(text), abs=1e-12)


@given(
    st.lists(
        st.text(st.sampled_from("aBÉ7٣.,'?!。？ \t\n\r(){};=\\$\"A:*/^+\ud800\u3000😀"), max_size=25),
        min_size=1,
        max_size=6,
    )
)
def test_texts_do_not_touch_each_other(texts: list[str]) -> None:
    expected = np.array([list(plainly(text).values()) for text in texts])
    np.testing.assert_allclose(numbers_of(texts), expected, atol=1e-12)


def test_parts_of_a_batch_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = numbers_of(SAMPLES)
    for size in (1, 3, 40):
        monkeypatch.setattr(text_shape, "_CHARACTERS_AT_ONCE", size)
        np.testing.assert_array_equal(numbers_of(SAMPLES), whole)


def test_numbers_are_standardised_over_the_texts_of_fit() -> None:
    shape = TextShape().fit(SAMPLES)
    table = shape.transform(SAMPLES)
    varies = numbers_of(SAMPLES).std(axis=0) > 0
    np.testing.assert_allclose(table.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(table.std(axis=0), varies.astype(float), atol=1e-12)
    np.testing.assert_allclose(TextShape(scale=0.25).fit(SAMPLES).transform(SAMPLES), table / 4)


def test_what_never_varied_is_zero_and_what_lies_beyond_is_clipped() -> None:
    shape = TextShape().fit(["aa", "aaaa"])
    assert shape.transform(["a" * 100_000]).tolist() == shape.transform(["aaaa"]).tolist()
    assert shape.transform(["{} $ 12?"])[0, 6:].tolist() == [0.0] * 20
    alike = TextShape().fit(["0.1 + 0.2"] * 7).transform(["0.1 + 0.2", "other"])
    assert alike.tolist() == [[0.0] * 26] * 2


def test_names_belong_to_columns() -> None:
    shape = TextShape().set_output(transform="pandas").fit(SAMPLES)
    frame = shape.transform(SAMPLES)
    assert list(frame.columns) == shape.get_feature_names_out().tolist() == list(plainly(""))


@pytest.mark.parametrize("column", [np.array, pd.Series, pl.Series, tuple])
def test_any_column_of_texts_is_taken(column: Any) -> None:
    texts = ["a b", "c 1?"]
    np.testing.assert_array_equal(TextShape().fit_transform(column(texts)), TextShape().fit_transform(texts))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("text", "TextShape: X must be a list of texts, got one str"),
        (["a", 3, None], "2 of 3 are none, the first is 3 in row 1"),
        ([], "TextShape: X has no texts, and at least one is required"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(X: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        TextShape().fit(X)
    with pytest.raises(RouterInputError, match=message):
        TextShape().fit(["a"]).transform(X)


@pytest.mark.parametrize("scale", [0, -1.0, np.nan, np.inf, "1", True])
def test_the_scale_must_be_a_positive_number(scale: Any) -> None:
    with pytest.raises(RouterInputError, match="TextShape: scale must be a finite number > 0, got"):
        TextShape(scale=scale).fit(["a"])


def test_nothing_is_transformed_before_fit() -> None:
    with pytest.raises(NotFittedError):
        TextShape().transform(["a"])


def test_beside_other_features_and_in_a_saved_policy() -> None:
    quality = np.eye(2)[np.arange(len(SAMPLES)) % 2]
    union = FeatureUnion([("shape", TextShape()), ("raw", TextShape(standardize=False, scale=2.0))])
    router = make_pipeline(union, QualityRouter()).fit(SAMPLES, quality)
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.predict_quality(SAMPLES), router.predict_quality(SAMPLES))
    np.testing.assert_array_equal(
        clone(router).fit(SAMPLES, quality).predict_quality(SAMPLES), router.predict_quality(SAMPLES)
    )
