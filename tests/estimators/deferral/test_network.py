"""Networks for deferral: what they learn, by which loss an epoch is chosen, and how they leave torch."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.preprocessing import StandardScaler

from defer import make_pipeline, save
from defer.estimators import SingleStageDeferral
from defer.estimators.deferral.network import NetworkScores, fit_module_scores, fit_network_scores
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import MissingExtraError, PersistenceError, RouterInputError
from defer.losses import softmax_deferral
from defer.model_file import model_bytes, model_from_bytes

torch = pytest.importorskip("torch")
pytest.importorskip("skorch")


def softmax(scores: Any, cost: Any, weight: Any) -> Any:
    return softmax_deferral(scores, cost, n_experts=0, weight=weight)


def problem_of(cost: np.ndarray, weight: np.ndarray | None = None, loss: Any = softmax) -> ScoreProblem:
    return ScoreProblem(cost, np.ones(len(cost)) if weight is None else weight, loss)


@pytest.fixture(scope="module")
def xor() -> tuple[np.ndarray, ScoreProblem]:
    """The expert is better in two opposite quadrants, which no line separates."""
    X = np.random.default_rng(0).normal(size=(600, 2))
    expert = X[:, 0] * X[:, 1] > 0
    return X, problem_of(np.column_stack([expert, ~expert]).astype(float))


def test_learns_a_deferral_rule_that_is_not_linear(xor: Any) -> None:
    X, problem = xor
    linear = fit_network_scores(X, problem, hidden=(), max_epochs=30, random_state=0)
    network = fit_network_scores(X, problem, hidden=(32,), max_epochs=60, learning_rate=0.01, random_state=0)
    assert problem.deferral_loss(linear.scores(X)) > 0.3
    assert problem.deferral_loss(network.scores(X)) < 0.05


def test_the_same_seed_gives_the_same_bits_and_leaves_torch_as_it_was(xor: Any) -> None:
    X, problem = xor
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = fit_network_scores(X, problem, max_epochs=3, random_state=7)
    assert torch.equal(torch.rand(2), expected)
    again = fit_network_scores(X, problem, max_epochs=3, random_state=7)
    other = fit_network_scores(X, problem, max_epochs=3, random_state=8)
    assert first.scores(X).tobytes() == again.scores(X).tobytes()
    assert first.scores(X).tobytes() != other.scores(X).tobytes()
    for seeded in (lambda: np.random.RandomState(1), lambda: np.random.default_rng(1)):
        left, right = (fit_network_scores(X, problem, max_epochs=1, random_state=seeded()) for _ in range(2))
        assert left.scores(X).tobytes() == right.scores(X).tobytes()


def test_numpy_scores_are_those_of_torch() -> None:
    rng = np.random.default_rng(0)
    weights = tuple(rng.normal(size=shape).astype(np.float32) for shape in ((4, 7), (7, 5), (5, 3)))
    biases = tuple(rng.normal(size=size).astype(np.float32) for size in (7, 5, 3))
    mean, scale = rng.normal(size=4), rng.uniform(0.5, 2.0, size=4)
    network, X = NetworkScores(weights, biases, mean, scale), rng.normal(size=(50, 4))
    layers: list[Any] = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = torch.nn.Linear(*weight.shape)
        layer.load_state_dict({"weight": torch.as_tensor(weight.T.copy()), "bias": torch.as_tensor(bias)})
        layers += [torch.nn.ReLU(), layer]
    module = torch.nn.Sequential(*layers[1:])
    with torch.no_grad():
        expected = module(torch.as_tensor((X - mean) / scale, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(network.scores(X), expected, atol=1e-5)
    np.testing.assert_allclose(network.scores(csr_array(X)), network.scores(X), atol=1e-12)


def test_scores_need_no_torch(xor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, problem = xor
    network = fit_network_scores(X, problem, max_epochs=1, random_state=0)
    expected = network.scores(X)
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(network.scores(X), expected)


def test_a_fitted_network_is_saved_without_pickle(xor: Any) -> None:
    X, problem = xor
    network = fit_network_scores(X, problem, max_epochs=1, random_state=0)
    loaded = model_from_bytes(model_bytes(network))
    assert isinstance(loaded, NetworkScores)
    np.testing.assert_array_equal(loaded.scores(X), network.scores(X))


def test_the_epoch_is_chosen_by_the_deferral_loss_and_not_by_the_surrogate() -> None:
    # One score is trained, and moves the same way in every epoch: it starts where the right action is taken and the
    # surrogate, which is told the opposite, drags it away.  The deferral loss wants the first epoch, the surrogate the last.
    def misled(scores: Any, cost: Any, weight: Any) -> Any:
        return softmax(scores, 1.0 - cost, weight)

    class Shift(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.tensor([0.0, 0.35]))

        def forward(self, X: Any) -> Any:
            return self.shift.expand(len(X), 2)

    cost = np.tile([1.0, 0.0], (100, 1))
    options: dict[str, Any] = {"learning_rate": 0.05, "batch_size": 100, "weight_decay": 0.0, "random_state": 0}
    fitted = fit_module_scores(np.zeros((100, 1)), problem_of(cost, loss=misled), Shift(), max_epochs=40, **options)
    assert fitted.deferral_loss == 0.0
    assert fitted.scores(np.zeros((1, 1))).argmax() == 1
    # Of the epochs without loss the last has the least surrogate: the tie is broken by it, before training goes astray.
    assert 1 < fitted.best_epoch < 8
    assert fitted.n_epochs == fitted.best_epoch + 20
    # The same gradients end at the other action where the deferral loss agrees with them.
    free = fit_module_scores(
        np.zeros((100, 1)), problem_of(1.0 - cost, loss=softmax), Shift(), max_epochs=40, **options
    )
    assert free.scores(np.zeros((1, 1))).argmax() == 0


def test_an_unobserved_deferral_loss_leaves_the_choice_to_the_surrogate() -> None:
    # The surrogate pulls towards the first action, of which no cost was observed, for as long as training goes on.
    def towards_the_first(scores: Any, cost: Any, weight: Any) -> Any:
        told = np.tile([0.0, 1.0], (len(scores), 1))
        return softmax(scores, told if isinstance(scores, np.ndarray) else torch.as_tensor(told), weight)

    problem = problem_of(np.column_stack([np.full(60, np.nan), np.ones(60)]), loss=towards_the_first)
    fitted = fit_network_scores(np.zeros((60, 1)), problem, max_epochs=50, learning_rate=0.1, random_state=0)
    assert fitted.scores(np.zeros((1, 1))).argmax() == 0
    assert fitted.best_epoch == fitted.n_epochs == 50


def test_weights_count_and_rows_without_one_do_not() -> None:
    X = np.array([[-1.0], [1.0]] * 60)
    cost = np.array([[0.0, 1.0], [1.0, 0.0]] * 60)
    cost[60:] = 1.0 - cost[60:]
    weight = np.where(np.arange(120) < 60, 1.0, 0.0)
    options: dict[str, Any] = {"max_epochs": 30, "learning_rate": 0.01, "random_state": 0}
    for given in (weight, np.column_stack([weight, weight])):
        loss = softmax if given.ndim == 1 else _cellwise
        scores = fit_network_scores(X, problem_of(cost, given, loss), **options).scores(X[:2])
        assert scores.argmax(axis=1).tolist() == [0, 1]
    scores = fit_network_scores(X, problem_of(cost, 1.0 - weight), **options).scores(X[:2])
    assert scores.argmax(axis=1).tolist() == [1, 0]


def _cellwise(scores: Any, cost: Any, weight: Any) -> Any:
    return softmax(scores, cost, weight[:, 0])


def test_sparse_queries_are_learned_from_as_dense_ones(xor: Any) -> None:
    X, problem = xor
    options: dict[str, Any] = {"max_epochs": 5, "random_state": 0}
    dense, thin = (fit_network_scores(given, problem, **options) for given in (X, csr_array(X)))
    np.testing.assert_allclose(thin.scores(csr_array(X)), dense.scores(X), atol=1e-3)


def test_constant_and_large_features_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([np.full(200, 7.0), 1e6 + 1e3 * rng.normal(size=200)])
    right = X[:, 1] > 1e6
    problem = problem_of(np.column_stack([right, ~right]).astype(float))
    for given in (X, csr_array(X)):
        network = fit_network_scores(given, problem, max_epochs=40, learning_rate=0.01, random_state=0)
        assert problem.deferral_loss(network.scores(given)) < 0.05


def test_a_module_class_and_a_module_of_the_user(xor: Any) -> None:
    X, problem = xor
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 2)
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fitted = fit_module_scores(X[:513], problem_of(problem.cost[:513]), module, max_epochs=2, random_state=0)
    assert fitted.scores(X).shape == (600, 2)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    made = fit_module_scores(X, problem, lambda d, m: torch.nn.Linear(d, m), max_epochs=1, random_state=0)
    assert made.scores(X).shape == (600, 2)


def test_a_fitted_module_can_be_pickled(xor: Any, tmp_path: Any) -> None:
    X, problem = xor
    fitted = fit_module_scores(X, problem, torch.nn.Linear, max_epochs=1, random_state=0)
    joblib.dump(fitted, tmp_path / "module")
    np.testing.assert_array_equal(joblib.load(tmp_path / "module").scores(X), fitted.scores(X))
    with pytest.raises(PersistenceError, match="cannot be saved so that it loads again"):
        model_bytes(fitted)


def test_one_query_is_enough() -> None:
    network = fit_network_scores(np.zeros((1, 2)), problem_of(np.array([[0.0, 1.0]])), max_epochs=3, random_state=0)
    assert network.scores(np.zeros((1, 2))).shape == (1, 2)


@pytest.mark.parametrize("package", ["torch", "skorch"])
def test_a_missing_package_names_the_extra(package: str, xor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, problem = xor
    original = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for fit in (fit_network_scores, lambda *given: fit_module_scores(*given, torch.nn.Linear)):
        with pytest.raises(MissingExtraError, match=rf"the package '{package}'.*pip install 'defer-learn\[torch\]'"):
            fit(X, problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (64, 0)}, r"hidden must hold integers >= 1, got \(64, 0\)"),
        ({"hidden": 0}, "hidden must hold integers >= 1, got 0"),
        ({"hidden": None}, "hidden must be an integer >= 1 or a sequence of them, got None"),
        ({"learning_rate": 0.0}, "learning_rate must be a number > 0, got 0.0"),
        ({"max_epochs": 0}, "max_epochs must be an integer >= 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be an integer >= 1, got 1.5"),
        ({"patience": True}, "patience must be an integer >= 1, got True"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be a number in \(0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be a number >= 0, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, message: str, xor: Any) -> None:
    with pytest.raises(RouterInputError, match=f"a network: {message}"):
        fit_network_scores(*xor, **options)


def test_queries_that_are_no_table_are_refused(xor: Any) -> None:
    X, problem = xor
    with pytest.raises(
        RouterInputError, match="a network needs queries as a table of numbers, got list; put a transformer"
    ):
        fit_network_scores(["a text"] * 600, problem)
    with pytest.raises(RouterInputError, match="a network: X has 5 rows, and its problem 600"):
        fit_network_scores(X[:5], problem)


def test_modules_that_do_not_fit_are_refused(xor: Any) -> None:
    with pytest.raises(RouterInputError, match=r"a module must be a torch\.nn\.Module, or a class .*; got int"):
        fit_module_scores(*xor, 3)
    with pytest.raises(RouterInputError, match=r"one row of 2 scores per query, .* and this one gives shape \(2, 5\)"):
        fit_module_scores(*xor, torch.nn.Linear(2, 5))
    with pytest.raises(
        RouterInputError, match=r"a module cannot take rows of 2 features, which X has \(.*; make it of that width"
    ):
        fit_module_scores(*xor, torch.nn.Linear(9, 2))
    with pytest.raises(
        RouterInputError, match=r"a module: max\(2, 2\) gave int and no torch\.nn\.Module; it is called with"
    ):
        fit_module_scores(*xor, max)


def test_one_width_is_one_hidden_layer(xor: Any) -> None:
    X, problem = xor
    one, other = (fit_network_scores(X, problem, hidden=hidden, max_epochs=1, random_state=0) for hidden in (8, (8,)))
    assert [weight.shape for weight in one.weights] == [(2, 8), (8, 2)]
    assert one.scores(X).tobytes() == other.scores(X).tobytes()


def test_a_router_with_a_module_says_how_to_keep_it(tmp_path: Any) -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    router = SingleStageDeferral(estimator=torch.nn.Linear, max_epochs=1).fit(X, y, experts=np.arange(60) % 3 % 2)
    for given in (router, make_pipeline(StandardScaler(), router)):
        with pytest.raises(
            PersistenceError,
            match=r"cannot be saved so that it loads again: it holds a torch module, .*joblib\.dump, or take estimator='mlp'",
        ):
            save(given, tmp_path / "policy")
    joblib.dump(router, tmp_path / "router")
    np.testing.assert_array_equal(joblib.load(tmp_path / "router").scores(X), router.scores(X))
