"""A learned projection of embeddings in which queries that the same arm wins lie near each other.

Source: the retriever of OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758); here a linear head on frozen embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.validation import check_is_fitted, validate_data

from defer.estimators.deferral.network_training import NetworkTraining, QueryTable, torch_libraries
from defer.estimators.deferral.parameter_checks import check_counts, check_positive, seed_of
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.estimators.routers.contrastive_pairs import Annotation, QueryPairs
from defer.estimators.routers.contrastive_step import ContrastiveStep
from defer.estimators.routers.exemplar_search import unit_rows
from defer.exceptions import RouterInputError
from defer.losses.contrastive import margin_contrastive

__all__ = ["ContrastiveProjection"]

Floats = NDArray[np.float64]

_WIDEST = 128


class ContrastiveProjection(ContrastiveStep):
    """Linear head on frozen embeddings, trained on pairs of queries by the margin contrastive loss of their cosine distance.

    It stands between an embedding and a router that looks for neighbours:
    ``make_pipeline(SentenceEmbedder(), ContrastiveProjection(), PoolVoteRouter())``.  It needs torch to be fitted, and NumPy
    alone to transform.

    Parameters
    ----------
    pairs : {"expert", "task", "task+expert"}, default="expert"
        Near neighbours, together where the same arm won; turns of dialogues, together where their annotations are alike; or
        both.
    n_components : int, optional
        Width of the output.  None keeps that of the input, at most 128.
    n_pairs : int, default=10
        Neighbours of every query, and turns at each end of the similarity of annotations.
    margin : float, default=1.0
        Cosine distance from which queries that do not belong together are left in peace.
    right_above : float, optional
        As for `PoolVoteRouter`: above which quality an answer is right.
    arm_order : sequence of names of arms, optional
        From the cheapest: of several arms that are right the first wins.  None takes the mean of `cost`, where `fit` is given
        it, else the order of the columns; a pipeline hands on no cost.
    learning_rate : float, default=1e-2
    max_epochs : int, default=40
    weight_decay : float, default=1e-2
        Pull of the head to where it starts.
    random_state : int, Generator, RandomState instance or None
        Holds out the pairs that choose the epoch, and draws batches.

    Attributes
    ----------
    components_ : array of shape (d, n_components)
        What embeddings are multiplied with, float32.
    n_pairs_ : int
        Pairs that were found.
    n_epochs_ : int
        Epochs trained; 0 where there was nothing to learn from, such as pairs of one kind only.

    Notes
    -----
    The head starts as the identity, or where it narrows as the projection on the leading singular vectors, so that without
    training neighbours stay what they are.  That pairs are taken once, of the embedding as it is, and loss and roles of the
    pairs follow the source; the linear head in place of the whole encoder, the number of pairs and the margin are ours.  Expert
    pairs must be made anew, and the head fitted anew, when arms change.

    `ContrastiveEncoder` trains the whole encoder instead.

    References
    ----------
    Lee, Cheng, Ostendorf 2024, OrchestraLLM, arXiv 2311.09758.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4))
    >>> won = (X[:, 0] > 0).astype(int)
    >>> head = ContrastiveProjection(max_epochs=30, random_state=0).fit(X, won)
    >>> np.linalg.norm(head.transform(X[:2]), axis=1).round(5).tolist()
    [1.0, 1.0]
    """

    components_: NDArray[np.float32]
    n_pairs_: int
    n_epochs_: int

    def __init__(
        self,
        pairs: Literal["expert", "task", "task+expert"] = "expert",
        *,
        n_components: int | None = None,
        n_pairs: int = 10,
        margin: float = 1.0,
        right_above: float | None = None,
        arm_order: Sequence[Any] | None = None,
        learning_rate: float = 1e-2,
        max_epochs: int = 40,
        weight_decay: float = 1e-2,
        random_state: Any = None,
    ) -> None:
        self.pairs = pairs
        self.n_components = n_components
        self.n_pairs = n_pairs
        self.margin = margin
        self.right_above = right_above
        self.arm_order = arm_order
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.weight_decay = weight_decay
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        cost: ArrayLike | None = None,
        annotations: Sequence[Annotation] | None = None,
    ) -> Self:
        """Find pairs and train the head.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Embeddings.
        y : array or frame of shape (n, m), or array of shape (n,)
            As for a router: quality of every arm, or labels; not needed for task pairs.
        cost : array or frame of shape (n, m), optional
            Orders the arms, where `arm_order` does not.
        annotations : sequence of n pairs of mappings, optional
            For task pairs: the state before each turn, and what the turn says.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            If an option is out of its range, `y` or `annotations` is needed and not there or does not fit, or `arm_order` does
            not name every arm once.
        MissingExtraError
            If torch is not installed.
        """
        X = validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32))
        self._check_options(X.shape[1])
        pairs = self._find_pairs(X, y, cost, annotations)
        start = self._start(X)
        self.n_pairs_, self.n_epochs_ = len(pairs), 0
        if len(pairs) and 0.0 < pairs.same.mean() < 1.0:
            start = self._train(unit_rows(X), pairs, start)
        self.components_ = start
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """Projected embeddings of length 1, shape (n, n_components); a row of zeros stays one."""
        check_is_fitted(self, "components_")
        X = validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)
        return unit_rows(np.asarray(unit_rows(X) @ self.components_.astype(X.dtype, copy=False)))

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[1])

    def _check_options(self, d: int) -> None:
        owner = type(self).__name__
        self._check_pair_options()
        check_counts(owner, max_epochs=self.max_epochs)
        check_positive(owner, learning_rate=self.learning_rate)
        if self.n_components is not None:
            check_counts(owner, n_components=self.n_components)
            if self.n_components > d:
                raise RouterInputError(f"{owner}: n_components={self.n_components} is more than the {d} features of X")

    def _start(self, X: Any) -> NDArray[np.float32]:
        d = X.shape[1]
        width = min(d, _WIDEST) if self.n_components is None else int(self.n_components)
        if width == d:
            return np.eye(d, dtype=np.float32)
        rank = min(width, X.shape[0])
        vectors = randomized_svd(unit_rows(X), rank, random_state=0)[2].T
        start = np.zeros((d, width), dtype=np.float32)
        start[:, : vectors.shape[1]] = vectors
        return start

    def _train(self, units: Any, pairs: QueryPairs, start: NDArray[np.float32]) -> NDArray[np.float32]:
        torch, _ = torch_libraries()
        training = NetworkTraining(
            self.learning_rate, self.max_epochs, batch_size=512, patience=5, weight_decay=self.weight_decay
        )
        margin = float(self.margin)

        def loss(scores: Any, same: Any, weight: Any) -> Any:
            return margin_contrastive(scores[:, 0], same[:, 0], margin=margin, weight=weight)

        problem = ScoreProblem(pairs.same[:, None], np.ones(len(pairs)), loss)
        fitted = training.run(
            _PairTable(units, pairs), problem, lambda: _head(torch, start), seed_of(self.random_state)
        )
        self.n_epochs_ = fitted.n_epochs
        change: NDArray[np.float32] = fitted.module.change.detach().cpu().numpy()
        return start + change


def _head(torch: Any, start: NDArray[np.float32]) -> Any:
    """A module that gives the cosine distance of two rows that lie side by side, after the projection."""

    class Head(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.start = torch.as_tensor(start)
            # Weight decay pulls the change, not the head, to zero.
            self.change = torch.nn.Parameter(torch.zeros_like(self.start))

        def forward(self, both: Any) -> Any:
            head = self.start + self.change
            one, other = both.chunk(2, dim=1)
            cosine = torch.nn.functional.cosine_similarity(one @ head, other @ head, dim=1)
            return (1.0 - cosine).clamp(min=0.0)[:, None]

    return Head()


class _PairTable(QueryTable):
    """Pairs of rows side by side, dense, made batch by batch."""

    def __init__(self, units: Any, pairs: QueryPairs) -> None:
        super().__init__(units)
        self.pairs = pairs

    def __call__(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        parts = [self.X[index[rows]] for index in (self.pairs.first, self.pairs.second)]
        if issparse(self.X):
            parts = [part.toarray() for part in parts]
        return np.ascontiguousarray(np.hstack(parts), dtype=np.float32)
