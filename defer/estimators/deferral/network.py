"""Scores by a neural network, chosen among its epochs by the deferral loss itself.

A network is trained on the surrogate in mini-batches; after every epoch the true deferral loss of held-out queries is
looked at, and the weights of the best epoch are kept.  Weights leave torch as arrays, so that predictions and saved
policies need only NumPy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from defer.estimators.deferral.network_training import (
    NetworkTraining,
    QueryTable,
    check_query_table,
    module_scores,
    torch_libraries,
)
from defer.estimators.deferral.parameter_checks import check_widths
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import RouterInputError

__all__ = ["ModuleScores", "NetworkScores", "fit_module_scores", "fit_network_scores"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NetworkScores:
    """A fitted network of linear layers and rectifiers, as arrays.

    Attributes
    ----------
    weights : tuple of arrays of shape (inputs, outputs), float32
    biases : tuple of arrays of shape (outputs,), float32
    mean, scale : arrays of shape (d,)
        Of the training queries; inputs are standardised by them.
    n_epochs : int
        Epochs that were trained.
    best_epoch : int
        Epoch whose weights these are, counted from 1.
    deferral_loss : float
        Of the held-out queries after that epoch.

    Examples
    --------
    >>> layer = np.array([[1.0, -1.0]], dtype=np.float32), np.zeros(2, dtype=np.float32)
    >>> NetworkScores((layer[0],), (layer[1],), np.array([1.0]), np.array([2.0])).scores(np.array([[5.0]])).tolist()
    [[2.0, -2.0]]
    """

    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    mean: Floats
    scale: Floats
    n_epochs: int = 0
    best_epoch: int = 0
    deferral_loss: float = float("nan")

    def scores(self, X: Any) -> Floats:
        """Score of every action, shape (n, m).

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
        """
        # The standardisation is part of the first layer: a sparse table stays sparse.
        first = self.weights[0] / self.scale[:, None]
        value = np.asarray(X @ first) + (self.biases[0] - self.mean @ first)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            value = np.maximum(value, 0.0) @ weight.astype(np.float64) + bias
        return value


@dataclass(frozen=True, eq=False)
class ModuleScores:
    """A user's torch module, fitted.

    It predicts by torch.  `defer.save`, whose files hold data and no code, does not take it; `joblib.dump` does, and loads it
    where the class of the module can be imported.

    Attributes
    ----------
    module : torch.nn.Module
    device : str
    n_epochs, best_epoch : int
        As for `NetworkScores`.
    deferral_loss : float
    """

    not_saved: ClassVar[str] = (
        "it holds a torch module, which is code and no data; keep it with joblib.dump, or take estimator='mlp', whose weights are "
        "saved as arrays"
    )

    module: Any
    device: str = "cpu"
    n_epochs: int = 0
    best_epoch: int = 0
    deferral_loss: float = float("nan")

    def scores(self, X: Any) -> Floats:
        """Score of every action, shape (n, m); `X` of shape (n, d) is given to the module as float32."""
        return module_scores(self.module, QueryTable(X), np.arange(X.shape[0]), device=self.device)


def fit_network_scores(
    X: Any,
    problem: ScoreProblem,
    *,
    hidden: int | Sequence[int] = (64,),
    learning_rate: float = 3e-3,
    max_epochs: int = 200,
    batch_size: int = 128,
    patience: int = 20,
    validation_fraction: float = 0.15,
    weight_decay: float = 1e-4,
    random_state: Any = None,
    device: str = "cpu",
) -> NetworkScores:
    """Fit a network of rectified linear layers to a problem.

    Parameters
    ----------
    X : array or sparse matrix of shape (n, d)
        Queries; standardised inside.
    problem : ScoreProblem
        Costs, weights and the surrogate that is minimised, by AdamW.  Rows without weight are left out.
    hidden : int or sequence of int, default=(64,)
        Width of every hidden layer, or of the one; none of them makes the scores linear.
    learning_rate : float, default=3e-3
    max_epochs : int, default=200
    batch_size : int, default=128
    patience : int, default=20
        Epochs without a better one after which training ends.
    validation_fraction : float, default=0.15
        Share of the rows that is held out to choose the epoch by its deferral loss; of epochs that are equally good the
        one of least surrogate loss is kept.  Where less than one row would be held out, the training rows choose.
    weight_decay : float, default=1e-4
    random_state : int, Generator, RandomState instance or None
        Draws the held-out rows, the first weights and the batches.  The global state of torch is left as it was.
    device : str, default="cpu"
        Where torch trains.

    Returns
    -------
    NetworkScores

    Raises
    ------
    MissingExtraError
        If torch or skorch is not installed.
    RouterInputError
        If an option is out of its range, or `X` is no table of numbers.

    Examples
    --------
    >>> from defer.losses import softmax_deferral
    >>> def loss(scores, cost, weight):
    ...     return softmax_deferral(scores, cost, n_experts=0, weight=weight)
    >>> X = np.array([[-1.0], [1.0]] * 50)
    >>> problem = ScoreProblem(np.array([[0.0, 1.0], [1.0, 0.0]] * 50), np.ones(100), loss)
    >>> fit_network_scores(X, problem, max_epochs=20, random_state=0).scores(X[:2]).argmax(axis=1).tolist()
    [0, 1]
    """
    training = NetworkTraining(
        learning_rate, max_epochs, batch_size, patience, validation_fraction, weight_decay, device
    )
    widths = check_widths("a network", hidden)
    torch, _ = torch_libraries()
    check_query_table(X, problem)
    mean, scale = _moments(X)

    def build() -> Any:
        sizes = [len(mean), *widths, problem.n_scores]
        layers: list[Any] = []
        for inputs, outputs in pairwise(sizes):
            layers += [torch.nn.ReLU(), torch.nn.Linear(inputs, outputs)]
        return torch.nn.Sequential(*layers[1:])

    fitted = training.run(QueryTable(X, mean, scale), problem, build, random_state)
    layers = [layer for layer in fitted.module if hasattr(layer, "weight")]
    return NetworkScores(
        tuple(np.ascontiguousarray(layer.weight.detach().cpu().numpy().T) for layer in layers),
        tuple(layer.bias.detach().cpu().numpy().copy() for layer in layers),
        mean, scale, fitted.n_epochs, fitted.best_epoch, fitted.deferral_loss,
    )  # fmt: skip


def fit_module_scores(
    X: Any,
    problem: ScoreProblem,
    module: Any,
    *,
    learning_rate: float = 3e-3,
    max_epochs: int = 200,
    batch_size: int = 128,
    patience: int = 20,
    validation_fraction: float = 0.15,
    weight_decay: float = 1e-4,
    random_state: Any = None,
    device: str = "cpu",
) -> ModuleScores:
    """Fit a torch module to a problem.

    Parameters
    ----------
    X : array or sparse matrix of shape (n, d)
        Handed to the module in batches, as float32 and not standardised.
    problem : ScoreProblem
    module : torch.nn.Module, or callable (n_features, n_scores) -> torch.nn.Module
        Gives scores of shape (n, m).  A module is copied and trained from the weights that it has; a callable, such as a
        class, makes one under `random_state`.
    learning_rate, max_epochs, batch_size, patience, validation_fraction, weight_decay, random_state, device
        As for `fit_network_scores`.

    Returns
    -------
    ModuleScores

    Raises
    ------
    MissingExtraError
        If torch or skorch is not installed.
    RouterInputError
        If `module` is neither or makes none, cannot take the features, or gives scores of another shape.

    Examples
    --------
    >>> import torch
    >>> from defer.losses import softmax_deferral
    >>> def loss(scores, cost, weight):
    ...     return softmax_deferral(scores, cost, n_experts=0, weight=weight)
    >>> X = np.array([[-1.0], [1.0]] * 50)
    >>> problem = ScoreProblem(np.array([[0.0, 1.0], [1.0, 0.0]] * 50), np.ones(100), loss)
    >>> fitted = fit_module_scores(X, problem, torch.nn.Linear, max_epochs=20, learning_rate=0.1, random_state=0)
    >>> fitted.scores(X[:2]).argmax(axis=1).tolist()
    [0, 1]
    """
    training = NetworkTraining(
        learning_rate, max_epochs, batch_size, patience, validation_fraction, weight_decay, device
    )
    torch, _ = torch_libraries()
    if not isinstance(module, torch.nn.Module) and not callable(module):
        raise RouterInputError(
            "a module must be a torch.nn.Module, or a class or function that is called with the number of features and of "
            f"scores and makes one; got {type(module).__name__}"
        )
    check_query_table(X, problem)

    def build() -> Any:
        if isinstance(module, torch.nn.Module):
            return copy.deepcopy(module)
        made = module(X.shape[1], problem.n_scores)
        if not isinstance(made, torch.nn.Module):
            raise RouterInputError(
                f"a module: {getattr(module, '__name__', module)!s}({X.shape[1]}, {problem.n_scores}) gave {type(made).__name__} and "
                "no torch.nn.Module; it is called with the number of features and of scores"
            )
        return made

    fitted = training.run(QueryTable(X), problem, build, random_state)
    return ModuleScores(fitted.module, device, fitted.n_epochs, fitted.best_epoch, fitted.deferral_loss)


def _moments(X: Any) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every column; 1 where it is constant."""
    if issparse(X):
        mean = np.asarray(X.mean(axis=0), dtype=np.float64).ravel()
        square = np.asarray(X.multiply(X).mean(axis=0), dtype=np.float64).ravel()
        scale = np.sqrt(np.maximum(square - mean**2, 0.0))
    else:
        mean, scale = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    return mean, np.where(scale > 1e-6 * np.maximum(np.abs(mean), 1e-30), scale, 1.0)
