"""Training of a torch module on a surrogate, by skorch, with the epoch chosen by the deferral loss of held-out queries."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from defer.estimators.deferral.parameter_checks import seed_of
from defer.estimators.deferral.query_features import check_number_table
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import MissingExtraError, RouterInputError

__all__ = ["NetworkTraining", "QueryTable", "TrainedModule", "check_query_table", "module_scores", "torch_libraries"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# Queries scored at a time, so that a sparse table is never dense as a whole.
_BLOCK = 8192


def torch_libraries() -> tuple[Any, Any]:
    """The modules torch and skorch.

    Raises
    ------
    MissingExtraError
        If one of them is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    try:
        import skorch
    except ImportError:
        raise MissingExtraError("skorch", "torch") from None
    return torch, skorch


def check_query_table(X: Any, problem: ScoreProblem) -> None:
    """Refuse queries that are no table of numbers, or not as many as the problem has.

    Raises
    ------
    RouterInputError
    """
    check_number_table(X, owner="a network")
    if X.shape[0] != len(problem.cost):
        raise RouterInputError(f"a network: X has {X.shape[0]} rows, and its problem {len(problem.cost)}")


class QueryTable:
    """Rows of a table as float32, dense and, where the moments are given, standardised.

    Parameters
    ----------
    X : array or sparse matrix of shape (n, d)
    mean, scale : arrays of shape (d,), optional

    Examples
    --------
    >>> QueryTable(np.array([[1.0], [5.0]]), np.array([3.0]), np.array([2.0]))(np.array([1])).tolist()
    [[1.0]]
    """

    def __init__(self, X: Any, mean: Floats | None = None, scale: Floats | None = None) -> None:
        self.X, self.mean, self.scale = X.tocsr() if issparse(X) else X, mean, scale

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        part = self.X[rows].toarray() if issparse(self.X) else self.X[rows]
        if self.mean is not None:
            part = (part - self.mean) / self.scale
        return np.ascontiguousarray(part, dtype=np.float32)


def module_scores(module: Any, table: QueryTable, rows: Rows, *, device: str) -> Floats:
    """Scores of a torch module in evaluation mode, shape (number of rows, m)."""
    torch, _ = torch_libraries()
    module.eval()
    with torch.no_grad():
        parts = [
            module(torch.as_tensor(table(rows[start : start + _BLOCK])).to(device)).cpu().numpy()
            for start in range(0, len(rows), _BLOCK)
        ]
    return np.concatenate(parts).astype(np.float64)


@dataclass(frozen=True, eq=False)
class TrainedModule:
    """A torch module with the weights of its best epoch, and how it was found.

    Attributes
    ----------
    module : torch.nn.Module
    n_epochs, best_epoch : int
        Epochs that were trained, and the one whose weights these are, counted from 1.
    deferral_loss : float
        Of the held-out queries after that epoch; NaN if nothing was observed of what its scores would take.
    """

    module: Any
    n_epochs: int
    best_epoch: int
    deferral_loss: float


@dataclass(frozen=True)
class NetworkTraining:
    """How a network is trained; the options are those of `fit_network_scores`.

    Raises
    ------
    RouterInputError
        If an option is out of its range.

    Examples
    --------
    >>> NetworkTraining(patience=5).max_epochs
    200
    """

    learning_rate: float = 3e-3
    max_epochs: int = 200
    batch_size: int = 128
    patience: int = 20
    validation_fraction: float = 0.15
    weight_decay: float = 1e-4
    device: str = "cpu"

    def __post_init__(self) -> None:
        rules: dict[str, tuple[type, Callable[[Any], bool], str]] = {
            "learning_rate": (Real, lambda value: 0 < value < np.inf, "a number > 0"),
            "max_epochs": (Integral, lambda value: value >= 1, "an integer >= 1"),
            "batch_size": (Integral, lambda value: value >= 1, "an integer >= 1"),
            "patience": (Integral, lambda value: value >= 1, "an integer >= 1"),
            "validation_fraction": (Real, lambda value: 0 < value < 1, "a number in (0, 1)"),
            "weight_decay": (Real, lambda value: 0 <= value < np.inf, "a number >= 0"),
        }
        for name, (kind, allowed, rule) in rules.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not allowed(value):
                raise RouterInputError(f"a network: {name} must be {rule}, got {value!r}")

    def run(
        self, table: QueryTable, problem: ScoreProblem, build: Callable[[], Any], random_state: Any
    ) -> TrainedModule:
        """Train the module that `build` makes, and give it the weights of its best epoch.

        Parameters
        ----------
        table : QueryTable
        problem : ScoreProblem
        build : callable () -> torch.nn.Module
            Called under the seed.
        random_state : int, Generator, RandomState instance or None

        Raises
        ------
        MissingExtraError
            If torch or skorch is not installed.
        RouterInputError
            If the module gives scores of another shape.
        """
        torch, skorch = torch_libraries()
        # Not the seed as it is: the folds of a base classifier may be shuffled by the same number.
        seed = np.random.RandomState(seed_of(random_state)).randint(2**31 - 1)
        rng = np.random.default_rng(int(seed))
        counted = problem.weight > 0 if problem.weight.ndim == 1 else (problem.weight > 0).any(axis=1)
        rows = rng.permutation(np.flatnonzero(counted))
        held = int(self.validation_fraction * len(rows))
        valid, train = (rows[:held], rows[held:]) if held else (rows, rows)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            module = build().to(self.device)
            _check_shape(module, table, rows[:2], problem, self.device)
            net = skorch.NeuralNet(
                module, criterion=_criterion(torch, problem, len(rows)), optimizer=torch.optim.AdamW,
                lr=self.learning_rate, optimizer__weight_decay=self.weight_decay, batch_size=self.batch_size,
                dataset=lambda batches, _: batches, iterator_train=_Batches, train_split=None, callbacks="disable",
                verbose=0, device=self.device,
            ).initialize()  # fmt: skip
            return self._best_epoch(net, _Queries(torch, table, problem, train), valid)

    def _best_epoch(self, net: Any, queries: _Queries, valid: Rows) -> TrainedModule:
        problem, module = queries.problem, net.module_
        best, best_epoch, epoch = (np.inf, np.inf), 0, 0
        state: dict[str, Any] = {}
        while epoch < self.max_epochs and epoch - best_epoch < self.patience:
            net.fit_loop(queries, epochs=1)
            epoch += 1
            scores = module_scores(module, queries.table, valid, device=self.device)
            deferral = problem.deferral_loss(scores, valid)
            surrogate = float(problem.loss(scores, problem.cost[valid], problem.weight[valid]).value.sum())
            # NaN: nothing that these scores would take was observed, so only the surrogate can tell epochs apart.
            found = (np.inf if np.isnan(deferral) else deferral, surrogate)
            if not state or found < best:
                best, best_epoch, state = found, epoch, copy.deepcopy(module.state_dict())
        module.load_state_dict(state)
        return TrainedModule(module.eval(), epoch, best_epoch, best[0] if best[0] < np.inf else float("nan"))


class _Queries:
    """Training queries with their costs and weights, made dense batch by batch."""

    def __init__(self, torch: Any, table: QueryTable, problem: ScoreProblem, rows: Rows) -> None:
        self.torch, self.table, self.problem, self.rows = torch, table, problem, rows
        self.cost = torch.as_tensor(problem.cost[rows], dtype=torch.float32)
        self.weight = torch.as_tensor(problem.weight[rows], dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Rows) -> tuple[Any, tuple[Any, Any]]:
        return self.torch.as_tensor(self.table(self.rows[index])), (self.cost[index], self.weight[index])


class _Batches:
    """What skorch draws batches from: whole ones at a time, where torch's loader would collate them row by row."""

    def __init__(self, queries: _Queries, batch_size: int) -> None:
        self.queries, self.batch_size = queries, batch_size

    def __len__(self) -> int:
        return -(-len(self.queries) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        order = self.queries.torch.randperm(len(self.queries)).numpy()
        # Of nearly equal size: a rest of one row would weigh as much as a batch, and has no batch statistics.
        for index in np.array_split(order, len(self)):
            yield self.queries.batch(index)


def _criterion(torch: Any, problem: ScoreProblem, n: int) -> Any:
    """The surrogate as a torch module, divided by the mean weight of all rows, which is the same for every batch."""
    mean_weight = problem.total_weight / n

    class Surrogate(torch.nn.Module):  # type: ignore[misc]
        def forward(self, scores: Any, target: tuple[Any, Any]) -> Any:
            return problem.loss(scores, *target).value.mean() / mean_weight

    return Surrogate()


def _check_shape(module: Any, table: QueryTable, rows: Rows, problem: ScoreProblem, device: str) -> None:
    wanted = len(rows), problem.n_scores
    try:
        shape = module_scores(module, table, rows, device=device).shape
    except RuntimeError as error:  # torch's own, whatever does not fit
        raise RouterInputError(
            f"a module cannot take rows of {table.X.shape[1]} features, which X has ({error}); make it of that width, or give a "
            "class or function that is called with the number of features and of scores"
        ) from error
    if shape != wanted:
        raise RouterInputError(
            f"a module must give one row of {problem.n_scores} scores per query, shape {wanted} for {len(rows)} queries, and "
            f"this one gives shape {shape}"
        )
