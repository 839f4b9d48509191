"""What the router at the end of a pipeline gets: queries through the steps before it, one row a query."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from defer.estimators.queries import check_batch, check_texts, n_queries
from defer.exceptions import RouterInputError

__all__ = ["check_first_step", "features_of"]


def check_first_step(pipeline: Pipeline, X: Any) -> None:
    """Refuse queries of which the first step reads no texts, if it is one that reads texts.

    Parameters
    ----------
    pipeline : Pipeline
        With a router as its last step.
    X : n queries

    Raises
    ------
    RouterInputError
        Says what they are.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from defer.estimators import QualityRouter, make_pipeline
    >>> check_first_step(make_pipeline(TfidfVectorizer(), QualityRouter()), ["a text"])
    """
    step = pipeline.steps[0][1]
    # A FeatureHasher reads lists of tokens.
    if not hasattr(step, "input_type"):
        check_texts(step, X, owner="RouterPipeline")


def features_of(pipeline: Pipeline, X: Any) -> Any:
    """Queries as the last step gets them.

    Parameters
    ----------
    pipeline : fitted Pipeline
        With a router as its last step.
    X : n queries

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    RouterInputError
        If the first step reads texts and `X` holds none, or the steps do not give one row a query.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from defer.estimators import QualityRouter, make_pipeline
    >>> pipeline = make_pipeline(StandardScaler(), QualityRouter()).fit([[0.0], [2.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> features_of(pipeline, [[3.0]]).tolist()
    [[2.0]]
    """
    check_is_fitted(pipeline)
    if len(pipeline.steps) == 1:
        return X
    check_batch(X)
    check_first_step(pipeline, X)
    features = pipeline[:-1].transform(X)
    if n_queries(features) != n_queries(X):
        # A vectoriser walks over a frame column by column.
        raise RouterInputError(
            f"the steps before the router made {n_queries(features)} rows of {n_queries(X)} queries: a step for texts "
            "takes a list or one column, such as frame['prompt'], and no frame"
        )
    return features
