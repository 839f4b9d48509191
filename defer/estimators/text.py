"""A good router for text in one call."""

from __future__ import annotations

from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion

from defer.estimators.pipeline import RouterPipeline, make_pipeline
from defer.estimators.quality import QualityRouter

__all__ = ["router"]


def router(*, cost_weight: float = 0.0) -> RouterPipeline:
    """Default router for text."""
    features: Any = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2)),
        ]
    )
    return make_pipeline(features, QualityRouter(Ridge(alpha=2.0), cost_regressor=Ridge(alpha=2.0), cost_weight=cost_weight))
