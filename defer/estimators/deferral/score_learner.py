"""Learning scores by what the user names: linear models, networks, a module of torch, or any scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.utils import get_tags

from defer.estimators.deferral.classifier_scores import (
    check_classifier,
    fit_action_classifier,
    fit_binary_classifiers,
)
from defer.estimators.deferral.linear import fit_linear_scores
from defer.estimators.deferral.parameter_checks import check_counts, check_positive, check_widths
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import RouterInputError

__all__ = ["ClassifierForm", "ScoreLearner", "Scores", "followed", "n_iterations", "takes_sparse"]

Floats = NDArray[np.float64]

_STEPS = (0.0, 0.2, 0.4, 0.6, 0.8)


class Scores(Protocol):
    """A fitted model of scores."""

    def scores(self, X: Any) -> Floats:
        """Score of every action, shape (n, m)."""


@dataclass(frozen=True, eq=False)
class ClassifierForm:
    """A surrogate as weighted classification, where it has that form.

    Attributes
    ----------
    credit : array of shape (n, m)
        Weight of every action as class, or as positive.
    against : array of shape (n, m) or None
        Weight of every action as negative, of a one-vs-all surrogate.
    """

    credit: Floats
    against: Floats | None = None


@dataclass(frozen=True)
class ScoreLearner:
    """How scores are learned; the parameters of the deferral estimators, checked.

    Attributes
    ----------
    owner : str
        Class that asks, for messages.
    estimator : "linear", "mlp", torch module, or classifier
    C, max_iter, tol
        Of the linear model.
    hidden, learning_rate, max_epochs, random_state
        Of networks.
    """

    owner: str
    estimator: Any
    C: float = 1.0
    max_iter: int = 1000
    tol: float = 1e-4
    hidden: int | Sequence[int] = (64,)
    learning_rate: float = 3e-3
    max_epochs: int = 200
    random_state: Any = None

    def __post_init__(self) -> None:
        check_positive(self.owner, C=self.C, tol=self.tol, learning_rate=self.learning_rate)
        check_counts(self.owner, max_iter=self.max_iter, max_epochs=self.max_epochs)
        check_widths(self.owner, self.hidden)
        if isinstance(self.estimator, str) and self.estimator not in ("linear", "mlp"):
            raise RouterInputError(
                f"{self.owner}: estimator must be 'linear', 'mlp', a torch module or a scikit-learn classifier, got "
                f"{self.estimator!r}"
            )
        if isinstance(self.estimator, type) and hasattr(self.estimator, "get_params"):
            raise RouterInputError(
                f"{self.owner}: estimator must be an object, got the class {self.estimator.__name__}; write "
                f"{self.estimator.__name__}()"
            )
        if _is_classifier(self.estimator):
            check_classifier(self.estimator, owner=self.owner)
        elif not isinstance(self.estimator, str) and not callable(self.estimator):
            raise RouterInputError(
                f"{self.owner}: estimator must be 'linear', 'mlp', a torch module or a scikit-learn classifier, got "
                f"{type(self.estimator).__name__}"
            )

    def fit(
        self,
        X: Any,
        problem: ScoreProblem,
        *,
        form: ClassifierForm | None,
        paths: Sequence[Sequence[ScoreProblem]] = (),
        smooth: bool = True,
    ) -> Scores:
        """Fit scores to a problem.

        Parameters
        ----------
        X : array or csr matrix of shape (n, d)
        problem : ScoreProblem
        form : ClassifierForm or None
            None where the surrogate is no weighted classification.
        paths : sequence of sequences of ScoreProblem, optional
            Given where the surrogate is not convex: the linear model is then fitted from zero and from the end of each path,
            whose problems are solved in turn, and the fit of lowest objective is kept.  Nothing is drawn at random.
        smooth : bool, default=True
            As for `fit_linear_scores`.

        Raises
        ------
        RouterInputError
            If a classifier is asked for and there is no form for it.
        """
        if _is_classifier(self.estimator):
            if form is None:
                raise RouterInputError(
                    f"{self.owner}: the classifier {type(self.estimator).__name__} can be fitted to the cross-entropy and one-vs-all "
                    "surrogates alone, which are weighted classification; take 'linear', 'mlp' or a torch module"
                )
            if form.against is not None:
                return fit_binary_classifiers(self.estimator, X, form.credit, form.against)
            return fit_action_classifier(self.estimator, X, form.credit)
        if self.estimator == "linear":
            return fit_linear_scores(
                X, problem, C=self.C, max_iter=self.max_iter, tol=self.tol, paths=paths, smooth=smooth
            )
        options: dict[str, Any] = {
            "learning_rate": self.learning_rate, "max_epochs": self.max_epochs, "random_state": self.random_state,
        }  # fmt: skip
        from defer.estimators.deferral.network import fit_module_scores, fit_network_scores

        if isinstance(self.estimator, str):
            return fit_network_scores(X, problem, hidden=self.hidden, **options)
        return fit_module_scores(X, problem, self.estimator, **options)


def followed(q: float, problem_at: Callable[[float], ScoreProblem]) -> list[ScoreProblem]:
    """Problems on the way from q = 0, where a family of surrogates is steep, to q, where it may have plateaus; q itself is left out.

    Examples
    --------
    >>> followed(0.5, lambda q: q)
    [0.0, 0.2, 0.4]
    """
    return [problem_at(step) for step in _STEPS if step < q]


def n_iterations(model: Scores) -> int:
    """Iterations of the solver, or epochs of the network, that a model of scores took; 1 for classifiers."""
    return max(1, int(getattr(model, "n_iter", getattr(model, "n_epochs", 1))))


def takes_sparse(estimator: Any) -> bool:
    """Whether sparse queries can be learned from by this estimator."""
    if _is_classifier(estimator):
        return bool(get_tags(estimator).input_tags.sparse)
    return isinstance(estimator, str)


def _is_classifier(estimator: Any) -> bool:
    return hasattr(estimator, "__sklearn_tags__") and not isinstance(estimator, type) and is_classifier(estimator)
