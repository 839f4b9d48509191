"""Problems of learning to defer that are drawn from a stated law.

Every generator draws queries ``x ~ N(0, I)``, then the label and the answers of the experts given x, and states
eta_k(x) = P(Y = k | x), the accuracies p_j(x) = P(answer j = Y | x), and what is independent of what.  The Bayes rule is the
same for all: answer the most probable label unless some p_j(x) - price_j is above max eta(x), and ask the best such expert.

``law`` fixes the coefficients and ``random_state`` the sample: two calls that differ in ``random_state`` alone are two samples
of one problem, such as training and test data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logit

from defer.datasets.parameters import check_choice, check_least, check_number, check_unit_interval
from defer.datasets.problem import DeferralProblem
from defer.exceptions import ProblemError
from defer.portfolios.expert_names import expert_names

__all__ = [
    "make_adversarial_experts",
    "make_correlated_experts",
    "make_linear_deferral",
    "make_noisy_experts",
    "make_specialist_experts",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

Link = Literal["logit", "log"]
Adversary = Literal["worst_where_uncertain", "right_only_where_own_is_right"]


def make_linear_deferral(
    *,
    n_samples: int = 1000,
    n_features: int = 2,
    n_classes: int = 3,
    n_experts: int = 1,
    link: Link = "logit",
    strength: float = 4.0,
    cost: float | Sequence[float] = 0.0,
    law: int = 0,
    n_types: int | None = None,
    random_state: Any = None,
) -> DeferralProblem:
    """Classes and experts whose probabilities are linear in the query, up to the link.

    eta(x) = softmax(B x), where the rows of B, one per class, sum to 0.  Given x, expert j is right with probability p_j(x)
    whatever the label (q_jk = p_j for every class k) and independently of the other experts; a wrong answer is uniform over
    the other labels.

    - ``link="logit"``: log(p_j / (1 - p_j)) = 1 + a_j x.  The optimal expert scores of the one-vs-all losses are this log-odds,
      hence linear; their class scores log(eta_k / (1 - eta_k)) are linear for two classes only.  The optimal expert scores of
      the softmax and asymmetric softmax losses are not linear, only their class scores are.
    - ``link="log"``: p_j = 0.95 exp(-KL(l_j || eta(x))), an expert that is best on queries of the class mix l_j: uniform for
      expert 1, drawn with the coefficients for others.  Then log eta_k and log p_j are linear up to one term that all share, so
      that all optimal scores of the softmax loss, for any number of experts, are linear: it is well specified.  Those of
      the other surrogates are not.

    Both hold for prices that are subtracted at decision time, and for training costs only where they are 0.

    Parameters
    ----------
    n_samples, n_features, n_classes, n_experts : int, default=1000, 2, 3 and 1
    link : {"logit", "log"}, default="logit"
    strength : float, default=4.0
        Typical standard deviation over queries of the score of a class, before centring, and of an expert's log-odds.
    cost : float or sequence of J floats, default=0.0
        Price of a question, in units of quality.
    law : int, default=0
        Seed of the coefficients.
    n_types : int, optional
        Draw the queries from so many fixed points, which `law` determines too; None draws them from a normal law.
    random_state : int, Generator or None
        Seed of the sample.

    Raises
    ------
    ProblemError
        If a size is too small, or `link` or `cost` is not as stated.

    Examples
    --------
    >>> train = make_linear_deferral(n_samples=200, random_state=0)
    >>> test = make_linear_deferral(n_samples=200, random_state=1)
    >>> train.class_probability.shape, train.expert_probability.shape
    ((200, 3), (200, 1))
    >>> 0 < train.bayes_risk < 0.5
    True
    """
    check_choice("link", link, Link)
    rng, X = _queries(n_samples, n_features, random_state, law, n_types)
    eta = _linear_classes(X, n_classes, strength, law)
    check_least("n_experts", n_experts, 1)
    coefficients = np.random.default_rng([law, 1])
    if link == "logit":
        slope = coefficients.standard_normal((n_features, n_experts)) * strength / np.sqrt(n_features)
        accuracy = expit(1.0 + X @ slope)
    else:
        mix = np.vstack(
            (np.full((1, n_classes), 1.0 / n_classes), coefficients.dirichlet(np.full(n_classes, 2.0), n_experts - 1))
        )
        log_eta = np.log(np.maximum(eta, np.finfo(float).tiny))
        accuracy = 0.95 * np.exp(log_eta @ mix.T - (mix * np.log(mix)).sum(axis=1))
    y = _draw_labels(rng, eta)
    right = rng.random((n_samples, n_experts)) < accuracy
    return _problem(X, y, _answers(rng, y, right, n_classes), cost, eta, accuracy)


def make_specialist_experts(
    *,
    n_samples: int = 1000,
    n_features: int = 2,
    n_classes: int = 6,
    n_experts: int | None = None,
    known: Sequence[Sequence[int]] | None = None,
    skill: float = 0.9,
    strength: float = 4.0,
    cost: float | Sequence[float] = 0.0,
    law: int = 0,
    n_types: int | None = None,
    random_state: Any = None,
) -> DeferralProblem:
    """Experts who each know some classes and guess on the others: the K-specialists of the literature.

    eta(x) = softmax(B x) as in `make_linear_deferral`.  Given the label k, and independently of x and of each other, expert j
    is right with probability q_jk: `skill` if it knows k, else 1 / K; a wrong answer is uniform over the other labels, so that an
    expert who does not know the class answers uniformly over all K labels.  Accuracy depends on the label, and on the query
    through the class probabilities: p_j(x) = sum_k eta_k(x) q_jk.

    Parameters
    ----------
    n_samples, n_features, n_classes : int, default=1000, 2 and 6
    n_experts : int, optional
        Default those of `known`, or 2.
    known : sequence of J sequences of classes, optional
        What each expert knows; by default the classes are dealt out in blocks of nearly equal size, in order.
    skill : float in [0, 1], default=0.9
        Accuracy on known classes.  At 1, with every class known to somebody, some expert is never worse than the own label.
    strength, cost, law, n_types, random_state
        As for `make_linear_deferral`.

    Raises
    ------
    ProblemError
        If a size is too small, or `known`, `skill` or `cost` is not as stated.

    Examples
    --------
    >>> problem = make_specialist_experts(known=[[0, 1], [2]], n_classes=3, skill=1.0, random_state=0)
    >>> knows = problem.y == 2
    >>> bool(problem.right[knows, 1].all())
    True
    """
    rng, X = _queries(n_samples, n_features, random_state, law, n_types)
    eta = _linear_classes(X, n_classes, strength, law)
    check_unit_interval("skill", [skill])
    if n_experts is not None:
        check_least("n_experts", n_experts, 1)
    if known is not None and n_experts not in (None, len(known)):
        raise ProblemError(f"known is of {len(known)} experts, and n_experts is {n_experts}: give one of the two")
    dealt = known if known is not None else np.array_split(np.arange(n_classes), 2 if n_experts is None else n_experts)
    by_class = np.full((n_classes, len(dealt)), 1.0 / n_classes)
    for expert, classes in enumerate(dealt):
        index = np.asarray(classes)
        if index.size and not (index.dtype.kind in "iu" and (index >= 0).all() and (index < n_classes).all()):
            raise ProblemError(
                f"known must name classes from 0 to {n_classes - 1}, got {list(classes)} for expert {expert + 1}"
            )
        by_class[index.astype(np.intp), expert] = skill
    y = _draw_labels(rng, eta)
    right = rng.random((n_samples, len(dealt))) < by_class[y]
    return _problem(X, y, _answers(rng, y, right, n_classes), cost, eta, np.clip(eta @ by_class, 0.0, 1.0))


def make_correlated_experts(
    *,
    n_samples: int = 1000,
    n_features: int = 2,
    n_classes: int = 3,
    accuracy: Sequence[float] = (0.75, 0.7, 0.65),
    correlation: float = 0.5,
    slope: float = 1.0,
    strength: float = 4.0,
    cost: float | Sequence[float] = 0.0,
    law: int = 0,
    n_types: int | None = None,
    random_state: Any = None,
) -> DeferralProblem:
    """Experts who make the same mistakes, with accuracies that do not depend on how much they do.

    eta(x) = softmax(B x) as in `make_linear_deferral`, and log(p_j / (1 - p_j)) = log(accuracy_j / (1 - accuracy_j)) + slope a_j x
    with unit vectors a_j.  Given x, whatever the label, expert j is right if U_j < p_j(x), where U_j is with probability
    sqrt(`correlation`) a uniform number that all experts share and else one of its own; those who are wrong by the shared number
    give one and the same wrong answer, which is uniform over the other labels, as are all other wrong answers.  Hence

        cov(expert i right, expert j right | x) = correlation (min(p_i, p_j) - p_i p_j),

    which for two experts of equal accuracy is a correlation of `correlation`, and else that part of the largest one possible.
    The Bayes rule asks one expert, so that it and its risk are the same for every `correlation`; a panel's are not.

    Parameters
    ----------
    n_samples, n_features, n_classes : int, default=1000, 2 and 3
    accuracy : sequence of J floats in (0, 1), default=(0.75, 0.7, 0.65)
        Accuracy of each expert on the query x = 0, and on all if `slope` is 0.
    correlation : float in [0, 1], default=0.5
    slope : float, default=1.0
        Standard deviation over queries of each expert's log-odds.
    strength, cost, law, n_types, random_state
        As for `make_linear_deferral`.

    Raises
    ------
    ProblemError
        If a size is too small, or `accuracy`, `correlation` or `cost` is not as stated.

    Examples
    --------
    >>> problem = make_correlated_experts(accuracy=(0.7, 0.7), correlation=1.0, slope=0.0, random_state=0)
    >>> bool((problem.experts[:, 0] == problem.experts[:, 1]).all())
    True
    """
    rng, X = _queries(n_samples, n_features, random_state, law, n_types)
    eta = _linear_classes(X, n_classes, strength, law)
    centre = check_unit_interval("accuracy", accuracy, is_open=True)
    check_unit_interval("correlation", [correlation])
    check_number("slope", slope)
    direction = np.random.default_rng([law, 1]).standard_normal((n_features, len(centre)))
    p = expit(logit(centre) + slope * X @ (direction / np.linalg.norm(direction, axis=0)))
    y = _draw_labels(rng, eta)
    shares = rng.random(p.shape) < np.sqrt(correlation)
    right = np.where(shares, rng.random((n_samples, 1)), rng.random(p.shape)) < p
    answers = _answers(rng, y, right, n_classes)
    mistake = (y + rng.integers(1, n_classes, size=n_samples)) % n_classes
    return _problem(X, y, np.where(shares & ~right, mistake[:, None], answers), cost, eta, p)


def make_noisy_experts(
    *,
    n_samples: int = 1000,
    n_features: int = 2,
    n_classes: int = 3,
    accuracy: Sequence[float] = (0.7,),
    label_noise: float = 0.1,
    strength: float = 4.0,
    cost: float | Sequence[float] = 0.0,
    law: int = 0,
    n_types: int | None = None,
    random_state: Any = None,
) -> DeferralProblem:
    """Experts who err at random, at the same rate on every query, and labels that do so too.

    eta(x) = (1 - label_noise) softmax(B x) + label_noise / K, with B as in `make_linear_deferral`: with probability
    `label_noise` the label is replaced by a uniform one.  Expert j is right with probability accuracy_j, independently of x, of
    the label and of the others; a wrong answer is uniform over the other labels.  Hence the Bayes rule is Chow's: ask the
    expert of largest accuracy less price where max eta(x) is below that.  Random experts are where the realizable surrogate
    is not consistent.

    Parameters
    ----------
    n_samples, n_features, n_classes : int, default=1000, 2 and 3
    accuracy : sequence of J floats in [0, 1], default=(0.7,)
    label_noise : float in [0, 1], default=0.1
    strength, cost, law, n_types, random_state
        As for `make_linear_deferral`.

    Raises
    ------
    ProblemError
        If a size is too small, or `accuracy`, `label_noise` or `cost` is not as stated.

    Examples
    --------
    >>> problem = make_noisy_experts(accuracy=(0.6, 0.8), random_state=0)
    >>> asked = problem.bayes_action > 0
    >>> bool((asked == (problem.class_probability.max(axis=1) < 0.8)).all()), set(problem.bayes_action[asked].tolist())
    (True, {2})
    """
    rng, X = _queries(n_samples, n_features, random_state, law, n_types)
    check_unit_interval("label_noise", [label_noise])
    eta = (1.0 - label_noise) * _linear_classes(X, n_classes, strength, law) + label_noise / n_classes
    p = np.tile(check_unit_interval("accuracy", accuracy), (n_samples, 1))
    y = _draw_labels(rng, eta)
    return _problem(X, y, _answers(rng, y, rng.random(p.shape) < p, n_classes), cost, eta, p)


def make_adversarial_experts(
    kind: Adversary = "worst_where_uncertain",
    *,
    n_samples: int = 1000,
    n_features: int = 2,
    n_classes: int = 3,
    least: float = 0.05,
    most: float = 0.95,
    strength: float = 4.0,
    cost: float | Sequence[float] = 0.0,
    law: int = 0,
    n_types: int | None = None,
    random_state: Any = None,
) -> DeferralProblem:
    """One expert who fails where deferring by confidence would ask.

    eta(x) = softmax(B x) as in `make_linear_deferral`; write c(x) = max eta(x).  A wrong answer is uniform over the other labels.

    - ``"worst_where_uncertain"``: right, whatever the label, with probability p(x), which rises linearly in c(x) from `least` at
      c = 1 / K to `most` at c = 1.  With ``least <= 1 / K``, p(x) <= c(x) everywhere and no query is worth deferring; the further
      `least` is below 1 / K, the more it costs to defer the least confident ones.
    - ``"right_only_where_own_is_right"``: right with probability `most` if the label is the own Bayes label, never else.  Then
      p(x) = most c(x) <= c(x), and no routing ever rescues a wrong own answer.

    Parameters
    ----------
    kind : {"worst_where_uncertain", "right_only_where_own_is_right"}, default="worst_where_uncertain"
    n_samples, n_features, n_classes : int, default=1000, 2 and 3
    least, most : float in [0, 1], default=0.05 and 0.95
        Accuracies, as stated above.
    strength, cost, law, n_types, random_state
        As for `make_linear_deferral`.

    Raises
    ------
    ProblemError
        If a size is too small, or `kind`, `least`, `most` or `cost` is not as stated.

    Examples
    --------
    >>> problem = make_adversarial_experts("right_only_where_own_is_right", random_state=0)
    >>> own_right = problem.own_bayes_label == problem.y
    >>> bool((problem.right[:, 0] & ~own_right).any()), set(problem.bayes_action.tolist())
    (False, {0})
    """
    check_choice("kind", kind, Adversary)
    check_unit_interval("least and most", [least, most])
    rng, X = _queries(n_samples, n_features, random_state, law, n_types)
    eta = _linear_classes(X, n_classes, strength, law)
    y, sure = _draw_labels(rng, eta), eta.max(axis=1)
    if kind == "worst_where_uncertain":
        p = least + (most - least) * np.clip((sure - 1.0 / n_classes) / (1.0 - 1.0 / n_classes), 0.0, 1.0)
        chance = p
    else:
        p, chance = most * sure, np.where(eta.argmax(axis=1) == y, most, 0.0)
    right = (rng.random(n_samples) < chance)[:, None]
    return _problem(X, y, _answers(rng, y, right, n_classes), cost, eta, p[:, None])


def _queries(
    n_samples: int, n_features: int, random_state: Any, law: int, n_types: int | None
) -> tuple[np.random.Generator, Floats]:
    check_least("n_samples", n_samples, 1)
    check_least("n_features", n_features, 1)
    check_least("law", law, 0)
    rng = np.random.default_rng(random_state)
    if n_types is None:
        return rng, rng.standard_normal((n_samples, n_features))
    check_least("n_types", n_types, 1)
    points = np.random.default_rng([law, 2]).standard_normal((n_types, n_features))
    return rng, points[rng.integers(n_types, size=n_samples)]


def _linear_classes(X: Floats, n_classes: int, strength: float, law: int) -> Floats:
    check_least("n_classes", n_classes, 2)
    check_number("strength", strength, least=0.0)
    slope = np.random.default_rng([law, 0]).standard_normal((X.shape[1], n_classes)) * strength / np.sqrt(X.shape[1])
    return np.exp(log_softmax(X @ (slope - slope.mean(axis=1, keepdims=True)), axis=1))


def _draw_labels(rng: np.random.Generator, eta: Floats) -> Ints:
    return (rng.random((len(eta), 1)) > np.cumsum(eta, axis=1)[:, :-1]).sum(axis=1)


def _answers(rng: np.random.Generator, y: Ints, right: NDArray[np.bool_], n_classes: int) -> Ints:
    wrong = (y[:, None] + rng.integers(1, n_classes, size=right.shape)) % n_classes
    return np.where(right, y[:, None], wrong)


def _problem(
    X: Floats, y: Ints, experts: Ints, cost: float | Sequence[float], eta: Floats, accuracy: Floats
) -> DeferralProblem:
    n_experts = experts.shape[1]
    price = np.asarray(cost, dtype=np.float64)
    if price.shape not in ((), (n_experts,)):
        raise ProblemError(f"cost must be one price or one per expert ({n_experts}), got shape {price.shape}")
    names = tuple(expert_names(n_experts))
    return DeferralProblem(X, y, experts, names, np.broadcast_to(price, (n_experts,)).copy(), eta, accuracy)
