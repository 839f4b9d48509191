"""What a fitted router is made of, as arrays: features, predictions and the rule, for those that need no scikit-learn to run.

Linear routers (`QualityRouter` on `Ridge`, `LinearRegression`, `LogisticRegression` and their kin) and `KNNRouter`, alone,
tuned, and behind `StandardScaler` or TF-IDF.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import (
    ElasticNet,
    ElasticNetCV,
    Lasso,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
    RidgeCV,
)
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import StandardScaler

from defer.estimators.pipeline import RouterPipeline
from defer.estimators.quality import ExpectedGrade, QualityRouter
from defer.estimators.routers.neighbors import KNNRouter
from defer.estimators.tuning.tuned_router import TunedRouter
from defer.estimators.wide_ridge import WideRidge
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Share

__all__ = ["PolicyParts", "check_policy", "policy_parts"]

Floats = NDArray[np.float64]
_LINEAR = (Ridge, RidgeCV, WideRidge, LinearRegression, Lasso, LassoCV, ElasticNet, ElasticNetCV)
_SUPPORTED = (
    "QualityRouter on Ridge, LinearRegression, Lasso, ElasticNet or LogisticRegression, or KNNRouter; alone, in a TunedRouter, "
    "and behind StandardScaler, TfidfVectorizer or a FeatureUnion of TfidfVectorizers"
)

_INSTEAD = (
    (
        ("StackedRouter", "the step SentenceEmbedder"),
        "for texts fit defer.router(embeddings=False), of kind 'ridge', in its place, or use defer.save or "
        "defer.export.litellm_router where this library runs",
    ),
    (("SessionRouter",), "export its router_, which decides single turns"),
)


@dataclass
class PolicyParts:
    """A policy as plain values and arrays.

    Attributes
    ----------
    arms : list of m names
    spec : dict
        Values that JSON holds: kinds of the steps and of the head, options, and the rule.
    arrays : dict of str to array
        What `spec` refers to by name.
    takes_text : bool
    n_features : int
        Numbers of a query, where it is no text.
    """

    arms: list[Any]
    spec: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    takes_text: bool = False
    n_features: int = 0


def check_policy(router: Any) -> None:
    """Refuse what is no fitted router.

    Raises
    ------
    RouterInputError
        Says what it is.

    Examples
    --------
    >>> check_policy(QualityRouter().fit([[0.0]], [[1.0, 0.0]]))
    """
    if isinstance(router, type):
        raise RouterInputError(
            f"only a fitted router can be exported, got the class {router.__name__}; fit {router.__name__}() first"
        )
    if not hasattr(router, "predict_quality"):
        raise RouterInputError(f"only a fitted router can be exported, got {router!r}")
    if not hasattr(router, "arms_"):
        raise RouterInputError(f"only a fitted router can be exported, and this {type(router).__name__} is not fitted")


def policy_parts(router: Any) -> PolicyParts:
    """Take a fitted router apart.

    Parameters
    ----------
    router : fitted router, pipeline or tuned router

    Raises
    ------
    RouterInputError
        If a part of it cannot be written as arrays; names the part and what can.

    Examples
    --------
    >>> router = QualityRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> sorted(policy_parts(router).arrays)
    ['bonus', 'coef', 'intercept', 'mean_cost']
    """
    check_policy(router)
    parts = PolicyParts([arm.item() if isinstance(arm, np.generic) else arm for arm in router.arms_])
    steps: list[Any] = []
    inner, tuned = router, None
    while not isinstance(inner, (QualityRouter, KNNRouter)):
        if isinstance(inner, RouterPipeline):
            steps += [step for _, step in inner.steps[:-1]]
            inner = inner.steps[-1][1]
        elif isinstance(inner, TunedRouter) and tuned is None:
            tuned, inner = inner, inner.router_
        else:
            raise _unsupported(type(inner).__name__)
    parts.spec = {"arms": parts.arms, "steps": [_step(parts, step, index) for index, step in enumerate(steps)]}
    parts.spec["rule"] = _rule(parts, inner if tuned is None else tuned)
    parts.n_features = 0 if parts.takes_text else int(getattr(steps[0] if steps else inner, "n_features_in_", 0))
    parts.spec["n_features"] = parts.n_features
    parts.arrays["mean_cost"] = np.asarray(inner.mean_cost_, dtype=np.float64)
    parts.spec["head"] = _neighbors(parts, inner) if isinstance(inner, KNNRouter) else _linear(parts, inner)
    return parts


def _unsupported(what: str) -> RouterInputError:
    hints = [hint for parts, hint in _INSTEAD if what.startswith(parts)]
    return RouterInputError(
        f"{what} cannot be exported as arrays; what can is {_SUPPORTED}"
        f"; {hints[0] if hints else 'where this library runs, defer.save and defer.export.litellm_router take any policy'}"
    )


def _rule(parts: PolicyParts, router: Any) -> dict[str, Any]:
    """Price, bonus, and whether near-ties at the price count as ties, as `predict` of the router has it."""
    m = len(parts.arms)
    parts.arrays["bonus"] = np.zeros(m)
    rule: dict[str, Any] = {"cost_weight": float(router.cost_weight), "price": 0.0, "tolerance": False}
    if isinstance(router, TunedRouter):
        point = router.operating_point_
        if isinstance(router.limit_, Share):
            if point.fraction > 0.0:
                raise _unsupported("a TunedRouter whose Share splits a tie at random")
            parts.arrays["bonus"] = np.asarray(router.arm_bonus_, dtype=np.float64)
        else:
            price = float(point.price)
            rule |= {"cost_weight": float(router._own_cost_weight), "price": price, "tolerance": point.fraction > 0.0}
    return rule


def _step(parts: PolicyParts, step: Any, index: int) -> dict[str, Any]:
    if type(step) is StandardScaler:
        d = int(step.n_features_in_)
        parts.arrays[f"mean_{index}"] = np.zeros(d) if step.mean_ is None or not step.with_mean else step.mean_
        parts.arrays[f"scale_{index}"] = np.ones(d) if step.scale_ is None else step.scale_
        return {"kind": "scale", "mean": f"mean_{index}", "scale": f"scale_{index}"}
    members = [step]
    if type(step) is FeatureUnion and step.transformer_weights is None:
        members = [member for _, member in step.transformer_list]
    if index == 0 and all(type(member) is TfidfVectorizer for member in members):
        parts.takes_text = True
        return {"kind": "tfidf", "parts": [_tfidf(parts, part, place) for place, part in enumerate(members)]}
    wrong = next((member for member in members if type(member) is not TfidfVectorizer), step)
    raise _unsupported(f"the step {type(wrong).__name__}" + (f" as step {index + 1}" if index else ""))


def _tfidf(parts: PolicyParts, step: TfidfVectorizer, place: int) -> dict[str, Any]:
    wrong = [
        name for name, is_plain in (
            ("analyzer", step.analyzer in ("word", "char_wb")), ("tokenizer", step.tokenizer is None),
            ("preprocessor", step.preprocessor is None), ("stop_words", step.stop_words is None),
            ("strip_accents", step.strip_accents is None), ("norm", step.norm in ("l1", "l2", None)),
        ) if not is_plain
    ]  # fmt: skip
    if wrong:
        raise _unsupported(f"a TfidfVectorizer with {wrong[0]}={getattr(step, wrong[0])!r}")
    terms = sorted(step.vocabulary_, key=step.vocabulary_.__getitem__)
    parts.arrays[f"idf_{place}"] = np.asarray(step.idf_) if step.use_idf else np.ones(len(terms))
    return {
        "idf": f"idf_{place}", "terms": terms, "analyzer": step.analyzer, "lowercase": bool(step.lowercase),
        "token_pattern": step.token_pattern, "ngram_range": [int(n) for n in step.ngram_range],
        "sublinear": bool(step.sublinear_tf), "binary": bool(step.binary), "norm": step.norm,
    }  # fmt: skip


def _linear(parts: PolicyParts, router: QualityRouter) -> dict[str, Any]:
    head: dict[str, Any] = {"kind": "linear"}
    d = int(router.n_features_in_)
    head["grades"] = _columns(parts, router.regressors_, d, "")
    if router.cost_regressors_:
        if any(isinstance(model, ExpectedGrade) for model in router.cost_regressors_):
            raise _unsupported("a classifier as cost_regressor")
        _columns(parts, router.cost_regressors_, d, "cost_")
        head["cost"] = True
    return head


def _columns(parts: PolicyParts, models: list[Any], d: int, name: str) -> list[dict[str, Any]]:
    """Arrays ``coef`` (m, d) and ``intercept`` (m,), and the arms whose quality is an expected grade."""
    rows: list[Any] = []
    grades: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        if isinstance(model, ExpectedGrade):
            rows.append(None)
            grades.append(_grades(parts, model, index))
        elif type(model) in _LINEAR:
            rows.append((np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)))
        else:
            raise _unsupported(f"the regressor {type(model).__name__}")
    blank = (np.zeros((1, d)), np.zeros(1))
    pairs = [blank if row is None else row for row in rows]
    parts.arrays[f"{name}coef"] = np.vstack([coef for coef, _ in pairs]).astype(np.float64)
    intercept = [np.broadcast_to(part, (len(coef),)) for coef, part in pairs]
    parts.arrays[f"{name}intercept"] = np.concatenate(intercept).astype(np.float64)
    return grades


def _grades(parts: PolicyParts, model: ExpectedGrade, index: int) -> dict[str, Any]:
    names = {"coef": f"coef_{index}", "intercept": f"intercept_{index}", "grades": f"grades_{index}"}
    if model.classifier is None:
        parts.arrays |= {names["coef"]: np.zeros((1, 1)), names["intercept"]: np.zeros(1)}
        parts.arrays[names["grades"]] = model.grades
        return {"arm": index, "kind": "constant", **names}
    if type(model.classifier) not in (LogisticRegression, LogisticRegressionCV):
        raise _unsupported(f"the classifier {type(model.classifier).__name__}")
    parts.arrays[names["coef"]] = model.classifier.coef_
    parts.arrays[names["intercept"]] = model.classifier.intercept_
    parts.arrays[names["grades"]] = model.grades[model.classifier.classes_]
    return {"arm": index, "kind": "sigmoid" if len(model.classifier.coef_) == 1 else "softmax", **names}


def _neighbors(parts: PolicyParts, router: KNNRouter) -> dict[str, Any]:
    queries, arrays = router.queries_, parts.arrays
    head: dict[str, Any] = {
        "kind": "neighbors", "metric": router.metric, "reach": int(router.reach_), "sparse": issparse(queries),
        "n_neighbors": int(router.n_neighbors), "weighted": router.sample_weight_ is not None,
        "cost": router.cost_ is not None,
    }  # fmt: skip
    if issparse(queries):
        queries = queries.tocsr()
        arrays |= {"data": queries.data, "columns": queries.indices}
        arrays["rows"] = np.repeat(np.arange(queries.shape[0]), np.diff(queries.indptr))
        head["n_queries"], head["n_columns"] = (int(size) for size in queries.shape)
    else:
        arrays["queries"] = queries
    arrays["centre"] = np.zeros(1, queries.dtype) if router.centre_ is None else router.centre_
    arrays |= {"norms": router.norms_, "values": router.quality_, "observed": router.observed_}
    arrays["mean_quality"] = router.mean_quality_
    if router.sample_weight_ is not None:
        arrays["sample_weight"] = router.sample_weight_
    if router.cost_ is not None:
        arrays["cost_values"] = router.cost_[0] - router.mean_cost_ * router.cost_[1]
        arrays["cost_observed"] = router.cost_[1]
    return head
