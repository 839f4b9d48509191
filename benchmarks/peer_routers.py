"""Routers of RouteLLM 0.2.0 and LLMRouter 0.4.0 on embeddings that are given to them.

Where a package can be imported it does the work itself: its labels, its trainer, its way from one query to one model.  Two
things are put in its place: the embedding, which is looked up, and the key that OpenAI's client wants to see at import, which is
a word that opens nothing.  Where a package cannot be imported its algorithm runs, written here from its documentation with
scikit-learn and torch.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["KINDS", "MatrixFactorizationPeer", "VotePeer", "factorization_peer", "quiet", "sources", "vote_peer"]

Floats = np.ndarray

# The values of both packages' documented configurations.
KINDS: dict[str, dict[str, Any]] = {
    "kNN": {
        "n_neighbors": 5,
        "weights": "uniform",
        "algorithm": "auto",
        "leaf_size": 30,
        "p": 2,
        "metric": "minkowski",
        "n_jobs": -1,
    },
    "SVM": {"kernel": "rbf", "C": 1.0, "gamma": "scale", "probability": True},
    "MLP": {
        "hidden_layer_sizes": [128, 64],
        "activation": "relu",
        "lr": 1e-3,
        "epochs": 100,
        "batch_size": 32,
        "alpha": 1e-4,
    },
}
_DIM, _BATCH, _EPOCHS, _NOISE, _RATE, _DECAY = 128, 64, 100, 0.1, 3e-4, 1e-5


class VotePeer(ABC):
    """A classifier of the best arm of a query; of arms that are equally good, the label is the first in a given order."""

    def __init__(self, kind: str, *, seed: int = 0) -> None:
        self.kind, self.seed = kind, seed

    def fit(self, X: Floats, quality: Floats, order: Floats) -> VotePeer:
        """Prepare and train."""
        self.prepare(X, quality, order)
        with quiet():
            self.train()
        return self

    @abstractmethod
    def prepare(self, X: Floats, quality: Floats, order: Floats) -> None:
        """Everything before training that takes time only because of files."""

    @abstractmethod
    def train(self) -> None:
        """What is timed as the fit."""

    @abstractmethod
    def shares(self, X: Floats) -> Floats:
        """Share of every arm in the votes or the probability of its class, shape (n, m)."""

    @abstractmethod
    def one(self, query: int) -> object:
        """Way of the package from one query, a row of `registered`, to a model."""

    @abstractmethod
    def model_one(self, query: int) -> object:
        """Prediction of the model alone, held in memory."""

    def register(self, X: Floats) -> None:
        """Queries that `one` and `model_one` are asked about."""
        self.registered = np.ascontiguousarray(X)


class _PackageVote(VotePeer):
    """By LLMRouter's package."""

    def prepare(self, X: Floats, quality: Floats, order: Floats) -> None:
        import torch
        import yaml

        names = {"kNN": ("knn", "KNNRouter"), "SVM": ("svm", "SVMRouter"), "MLP": ("mlp", "MLPRouter")}
        stem, name = names[self.kind]
        self._module = import_module(f"llmrouter.models.{stem}router.router")
        models, self.m = import_module("llmrouter.models"), quality.shape[1]
        self._folder = tempfile.TemporaryDirectory()
        place = Path(self._folder.name)
        with (place / "routing.jsonl").open("w", encoding="utf-8") as file:
            for row, values in enumerate(quality):
                for arm in order:
                    line = {"query": f"{row:07d}", "embedding_id": row, "model_name": str(arm)}
                    file.write(json.dumps({**line, "performance": float(values[arm])}) + "\n")
        torch.save(torch.as_tensor(np.ascontiguousarray(X, dtype=np.float32)), place / "embeddings.pt")
        saved = str(place / "model.pkl")
        paths = {"query_embedding_data": "embeddings.pt", "routing_data_train": "routing.jsonl"}
        options = {
            "data_path": {key: str(place / value) for key, value in paths.items()},
            "model_path": {"ini_model_path": "", "save_model_path": saved, "load_model_path": saved},
            "metric": {"weights": {"performance": 1, "cost": 0, "llm_judge": 0}},
            "hparam": KINDS[self.kind],
        }
        (place / "options.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
        torch.manual_seed(self.seed)
        with quiet():
            self._router = getattr(self._module, name)(str(place / "options.yaml"))
            trainer = "MLPTrainer" if self.kind == "MLP" else f"{name}Trainer"
            self._trainer = getattr(models, trainer)(self._router, device="cpu")

    def train(self) -> None:
        self._trainer.train()

    def shares(self, X: Floats) -> Floats:
        X = np.ascontiguousarray(X, dtype=np.float32)
        found = np.zeros((len(X), self.m))
        if self.kind == "MLP":
            import torch

            with torch.no_grad():
                share = torch.softmax(self._trainer.model(torch.as_tensor(X)), dim=1).numpy()
            arms = [int(self._router.idx_to_model[index]) for index in range(share.shape[1])]
        else:
            share, arms = self._trainer.model.predict_proba(X), [int(name) for name in self._trainer.model.classes_]
        found[:, arms] = share
        return found

    def register(self, X: Floats) -> None:
        import torch

        super().register(X)
        rows = torch.as_tensor(np.ascontiguousarray(X, dtype=np.float32))
        self._module.get_longformer_embedding = lambda text: rows[int(text)]

    def one(self, query: int) -> object:
        return self._router.route_single({"query": str(query)})

    def model_one(self, query: int) -> object:
        model = self._trainer.model
        if self.kind == "MLP":
            import torch

            return model.predict(torch.as_tensor(self.registered[query : query + 1])).item()
        return model.predict([self.registered[query]])[0]


class _AlgorithmVote(VotePeer):
    """By scikit-learn and torch, with the model in memory."""

    def prepare(self, X: Floats, quality: Floats, order: Floats) -> None:
        self._X, self.m = np.ascontiguousarray(X, dtype=np.float32), quality.shape[1]
        self._label = order[quality[:, order].argmax(axis=1)]

    def train(self) -> None:
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.svm import SVC

        if self.kind == "MLP":
            self._classes, codes = np.unique(self._label, return_inverse=True)
            self._model = _trained_mlp(self._X, codes, self.seed)
        else:
            make = KNeighborsClassifier if self.kind == "kNN" else SVC
            self._model = make(**KINDS[self.kind]).fit(self._X, self._label)
            self._classes = self._model.classes_
        self._saved = pickle.dumps(self._model)

    def shares(self, X: Floats) -> Floats:
        X = np.ascontiguousarray(X, dtype=np.float32)
        found = np.zeros((len(X), self.m))
        if self.kind == "MLP":
            import torch

            with torch.no_grad():
                found[:, self._classes] = torch.softmax(self._model(torch.as_tensor(X)), dim=1).numpy()
        else:
            found[:, self._classes] = self._model.predict_proba(X)
        return found

    def one(self, query: int) -> object:
        self._model = pickle.loads(self._saved)
        return self.model_one(query)

    def model_one(self, query: int) -> object:
        return int(self.shares(self.registered[query : query + 1]).argmax())


def _trained_mlp(X: Floats, label: Floats, seed: int) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    options = KINDS["MLP"]
    widths = [X.shape[1], *options["hidden_layer_sizes"]]
    layers: list[Any] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], int(label.max()) + 1))
    search = torch.optim.Adam(net.parameters(), lr=options["lr"], weight_decay=options["alpha"])
    rows, target = torch.as_tensor(X), torch.as_tensor(label)
    for _ in range(options["epochs"]):
        for batch in torch.randperm(len(rows)).split(options["batch_size"]):
            search.zero_grad()
            nn.functional.cross_entropy(net(rows[batch]), target[batch]).backward()
            search.step()
    return net


class MatrixFactorizationPeer(ABC):
    """Factorisation of battles between two arms, of which the queries with a winner are trained on."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, X: Floats, quality: Floats) -> MatrixFactorizationPeer:
        """Prepare and train on qualities of shape (n, 2)."""
        self.prepare(X, quality)
        with quiet():
            self.train()
        return self

    @abstractmethod
    def prepare(self, X: Floats, quality: Floats) -> None:
        """Battles as the package reads them."""

    @abstractmethod
    def train(self) -> None:
        """What is timed as the fit."""

    @abstractmethod
    def one(self, query: int) -> float:
        """Chance that arm 1 beats arm 0 on a row of `registered`."""

    def register(self, X: Floats) -> None:
        """Queries that `one` is asked about."""
        self.registered = np.ascontiguousarray(X, dtype=np.float32)

    def shares(self, X: Floats) -> Floats:
        """Chance of either arm to win, one query after the other as the package does, shape (n, 2)."""
        self.register(X)
        chance = np.array([self.one(row) for row in range(len(X))])
        return np.column_stack([1.0 - chance, chance])


class _PackageFactorization(MatrixFactorizationPeer):
    """By RouteLLM's package: its two modules of matrix factorisation."""

    def prepare(self, X: Floats, quality: Floats) -> None:
        import torch

        self._train = import_module("routellm.routers.matrix_factorization.train_matrix_factorization")
        self._serve = import_module("routellm.routers.matrix_factorization.model")
        # The package knows models by a fixed list of names, so two of them stand for the two arms.
        self._names = list(self._serve.MODEL_IDS)[:2]
        torch.manual_seed(self.seed)
        won = np.random.default_rng(self.seed).permutation(np.flatnonzero(quality[:, 0] != quality[:, 1]))
        battles = [
            {
                "model_a": self._names[0],
                "model_b": self._names[1],
                "idx": int(row),
                "winner": "model_a" if quality[row, 0] > quality[row, 1] else "model_b",
            }
            for row in won
        ]
        # The package's own measure of progress fails on a single held-out battle.
        cut = min(int(len(battles) * 0.95), len(battles) - 2)
        self._battles = (
            self._train.PairwiseDataset(battles[:cut]).get_dataloaders(batch_size=_BATCH, shuffle=True),
            self._train.PairwiseDataset(battles[cut:]).get_dataloaders(1024, shuffle=False),
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.npy"
            np.save(path, np.ascontiguousarray(X, dtype=np.float32))
            self._net = self._train.MFModel_Train(
                dim=_DIM,
                num_models=len(self._serve.MODEL_IDS),
                num_prompts=len(X),
                text_dim=X.shape[1],
                npy_path=path,
            )

    def train(self) -> None:
        options = {"lr": _RATE, "weight_decay": _DECAY, "alpha": _NOISE, "num_epochs": _EPOCHS}
        self._train.train_loops(self._net, *self._battles, **options, device="cpu")
        state = self._net.state_dict()
        self._model = self._serve.MFModel(_DIM, len(self._serve.MODEL_IDS), state["text_proj.weight"].shape[1], 1, True)
        state = {
            ("text_proj.0.weight" if key == "text_proj.weight" else key.replace("classifier.", "classifier.0.")): value
            for key, value in state.items()
            if key != "Q.weight"
        }
        self._model.load_state_dict(state)
        self._model.eval()

    def register(self, X: Floats) -> None:
        super().register(X)
        rows = self.registered

        def create(input: list[str], model: str) -> Any:
            return SimpleNamespace(data=[SimpleNamespace(embedding=rows[int(input[0])])])

        self._serve.OPENAI_CLIENT = SimpleNamespace(embeddings=SimpleNamespace(create=create))

    def one(self, query: int) -> float:
        first, second = (self._serve.MODEL_IDS[name] for name in self._names)
        return float(self._model.pred_win_rate(second, first, str(query)))


class _AlgorithmFactorization(MatrixFactorizationPeer):
    """By torch: head · ((v_win - v_lose) * W e), arms' vectors of length 1, noise on the embeddings, Adam."""

    def prepare(self, X: Floats, quality: Floats) -> None:
        won = np.random.default_rng(self.seed).permutation(np.flatnonzero(quality[:, 0] != quality[:, 1]))
        won = won[: int(len(won) * 0.95)]
        self._X = np.ascontiguousarray(X[won], dtype=np.float32)
        self._winner = (quality[won, 1] > quality[won, 0]).astype(np.int64)

    def train(self) -> None:
        import torch
        from torch.nn import functional

        torch.manual_seed(self.seed)
        rows, winner = torch.as_tensor(self._X), torch.as_tensor(self._winner)
        arms = torch.nn.Embedding(2, _DIM)
        project, head = torch.nn.Linear(rows.shape[1], _DIM, bias=False), torch.nn.Linear(_DIM, 1, bias=False)
        parts = torch.nn.ModuleList([arms, project, head])
        search = torch.optim.Adam(parts.parameters(), lr=_RATE, weight_decay=_DECAY)
        for _ in range(_EPOCHS):
            for batch in torch.randperm(len(rows)).split(_BATCH):
                e = rows[batch] + _NOISE * torch.randn_like(rows[batch])
                unit = functional.normalize(arms.weight, dim=1)
                score = head((unit[winner[batch]] - unit[1 - winner[batch]]) * project(e)).squeeze(1)
                search.zero_grad()
                functional.softplus(-score).mean().backward()
                search.step()
        with torch.no_grad():
            unit = functional.normalize(arms.weight, dim=1)
            self._coef = (((unit[1] - unit[0]) * head.weight[0]) @ project.weight).numpy()

    def one(self, query: int) -> float:
        return float(1.0 / (1.0 + np.exp(-(self.registered[query] @ self._coef))))


def vote_peer(kind: str) -> VotePeer:
    """LLMRouter's router of a kind, by its package where it can be imported."""
    return _PackageVote(kind) if _failure("LLMRouter") is None else _AlgorithmVote(kind)


def factorization_peer() -> MatrixFactorizationPeer:
    """RouteLLM's matrix factorisation, by its package where it can be imported."""
    return _PackageFactorization() if _failure("RouteLLM") is None else _AlgorithmFactorization()


def sources() -> dict[str, str]:
    """Whether every peer runs by its package, in words."""
    found = {}
    for name in _MODULES:
        failure = _failure(name)
        found[name] = "its own package" if failure is None else f"its algorithm, written here ({failure})"
    return found


_MODULES = {
    "LLMRouter": "llmrouter.models",
    "RouteLLM": "routellm.routers.matrix_factorization.train_matrix_factorization",
}
_FAILURES: dict[str, str | None] = {}


def _failure(package: str) -> str | None:
    """Why a package cannot be imported; None where it can."""
    if package not in _FAILURES:
        os.environ.setdefault("OPENAI_API_KEY", "none")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            with quiet():
                import_module(_MODULES[package])
            _FAILURES[package] = None
        except Exception as error:
            _FAILURES[package] = f"{type(error).__name__}: {error}"
    return _FAILURES[package]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on the terminal: the packages print at every step."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
