"""Fitting every router on the training part of every fold, with results kept on disk so that an interrupted run goes on.

A result is kept under what it depends on: the set, the fold, the router with all its parameters, and the source of every
module of `defer` that the router's module imports, directly or through others.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import sklearn
from cached_features import cached, register
from router_candidates import AUTO, Candidate, candidates, why_skipped
from routing_sets import DATA, SETS, RoutingSet, first_rows
from sklearn.feature_extraction.text import TfidfVectorizer

import defer
from defer import OutcomeLog
from defer.estimators.embeddings import SentenceEmbedder
from defer.estimators.text_shape import TextShape
from defer.portfolios.splitting import query_groups

__all__ = [
    "DOMAIN_FOLDS",
    "FOLDS",
    "QUICK_QUERIES",
    "Fold",
    "Result",
    "feature_seconds",
    "fold_of",
    "load",
    "result",
    "run_fold",
]

FOLDS, DOMAIN_FOLDS, QUICK_QUERIES = 5, 6, 150
_ROUTE_SECONDS = 0.3
_ROOT = Path(defer.__file__).parents[1]
_FOLDER = Path(sys.prefix) / "router_results"

Floats = np.ndarray


@dataclass(frozen=True)
class Fold:
    """One training and test part of a set.

    Attributes
    ----------
    name : str
        Of the set.
    by_domain : bool
        Whether whole domains are held out.
    seed, part : int
        Repeat, and number of the fold in it.
    most : int
        Queries of the set that take part.
    """

    name: str
    by_domain: bool
    seed: int
    part: int
    most: int


@dataclass(frozen=True)
class Result:
    """What a router predicts of the queries of a fold that it did not see.

    Attributes
    ----------
    quality, cost : arrays of shape (n, m)
    fit_s, route_s : float
        Of the whole training part, and of a query of the test part, features at hand.
    size : int
        Bytes of the saved router without the features' transformers; 0 where it was not measured.
    fallback : bool
        Whether a stack gave way to the zero router.
    error : str
        Why there are no predictions.
    """

    quality: Floats
    cost: Floats
    fit_s: float
    route_s: float
    size: int
    fallback: bool
    error: str


@lru_cache(maxsize=2)
def load(name: str, most: int) -> RoutingSet:
    """A set of at most so many queries, its texts known to the cached features."""
    whole = SETS[name](DATA)
    part = first_rows(whole, most)
    if part.is_text:
        register(name, list(part.log.X), list(whole.log.X))
    return part


def fold_of(part: RoutingSet, *, by_domain: bool, seed: int) -> np.ndarray:
    """Number of the fold that holds every query out, shape (n,); equal texts, or whole domains, share one."""
    rng = np.random.default_rng(seed)
    if not by_domain:
        groups = query_groups(part.log)
        return (rng.permutation(groups.max() + 1) % FOLDS)[groups]
    names, groups = np.unique(np.asarray(part.log.domain).astype(str), return_inverse=True)
    # Equal texts in two domains would be seen in training; none of the sets has them.
    return (rng.permutation(len(names)) % min(DOMAIN_FOLDS, len(names)))[groups]


def run_fold(fold: Fold, *, stacks: bool, neural: bool) -> None:
    """Fit and keep the stacks, or all other routers, that are not kept yet."""
    warnings.simplefilter("ignore")
    part = load(fold.name, fold.most)
    blocks: dict[str, Any] = {}
    for candidate in candidates(part, neural=neural):
        if candidate.name.startswith(AUTO) != stacks:
            continue
        path = _path(fold, candidate, part)
        if path.exists() or why_skipped(candidate, part):
            continue
        found = _run(candidate, part, fold, blocks)
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {name: np.asarray(value) for name, value in vars(found).items()}
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **fields)
        os.replace(temporary, path)
        print(
            f"{fold.name:18s} {'domain' if fold.by_domain else 'cv':6s} {fold.seed} {fold.part}  {candidate.name:42s} "
            f"fit {found.fit_s:7.2f} s  route {1e6 * found.route_s:8.1f} us  {found.error}",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def result(fold: Fold, candidate: Candidate) -> Result | None:
    """What was kept, or None."""
    path = _path(fold, candidate, load(fold.name, fold.most))
    if not path.exists():
        return None
    with np.load(path) as file:
        values = {name: file[name] for name in file.files}
    return Result(**{name: value if value.ndim == 2 else value.item() for name, value in values.items()})


def _run(candidate: Candidate, part: RoutingSet, fold: Fold, blocks: dict[str, Any]) -> Result:
    held = fold_of(part, by_domain=fold.by_domain, seed=fold.seed) == fold.part
    train, test = part.log.select(~held), part.log.select(held)
    nothing = np.empty((0, 0))
    try:
        X_train, X_test = _features(candidate, part, fold, train, test, blocks)
        router = candidate.make(part)
        if part.is_text and not candidate.is_neural and candidate.features != "domain":
            router = cached(router, fold.name)
        given = {"tags": np.asarray(train.domain).astype(str)} if candidate.takes_tags else {}
        # Time of the processor, since two processes and whatever else share the machine.
        start = process_time()
        router.fit(X_train, train.quality, cost=train.cost, **given)
        fitted = process_time()
        routing = router.route(X_test)
        routed = [process_time() - fitted]
        while len(routed) < 3 and sum(routed) < _ROUTE_SECONDS:
            again = process_time()
            router.route(X_test)
            routed.append(process_time() - again)
    except Exception as error:  # a router that fails is a row of the table, not the end of it
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        return Result(nothing, nothing, 0.0, 0.0, 0, False, f"{type(error).__name__}: {error}"[:300])
    return Result(
        np.asarray(routing.predicted_quality),
        np.asarray(routing.predicted_cost),
        fitted - start,
        min(routed) / len(test),
        _size(router) if fold.seed == 0 and fold.part == 0 and not fold.by_domain else 0,
        bool(getattr(getattr(router, "steps", [("", router)])[-1][1], "is_zero_router_", False)),
        "",
    )


def _features(
    candidate: Candidate,
    part: RoutingSet,
    fold: Fold,
    train_log: OutcomeLog,
    test_log: OutcomeLog,
    blocks: dict[str, Any],
) -> tuple[Any, Any]:
    """Queries of both parts as the router takes them, made once for all routers of a fold."""
    if candidate.features == "domain":
        return tuple(np.asarray(log.domain).astype(str)[:, None] for log in (train_log, test_log))
    train, test = train_log.X, test_log.X
    if not part.is_text or candidate.features == "text":
        if part.is_text or "numbers" in blocks:
            return (train, test) if part.is_text else blocks["numbers"]
        # Standardised by the training part.
        mean, spread = train.mean(axis=0), train.std(axis=0)
        blocks["numbers"] = tuple((table - mean) / np.where(spread > 0, spread, 1.0) for table in (train, test))
        return blocks["numbers"]
    if candidate.features not in blocks:
        step = SentenceEmbedder() if candidate.features == "meaning" else _words()
        step = cached(step, fold.name).fit(train)
        blocks[candidate.features] = step.transform(train), step.transform(test)
    return blocks[candidate.features]


def _words() -> TfidfVectorizer:
    """Words and word pairs that occur at least twice."""
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)


def feature_seconds(part: RoutingSet, *, sample: int = 100) -> dict[str, float]:
    """Seconds a query to make the features of each kind anew, on a few queries at once."""
    if not part.is_text:
        return dict.fromkeys(("words", "meaning", "text", "domain"), 0.0)
    texts = list(part.log.X)
    some = texts[:sample]
    letters = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5), max_features=200_000)
    steps = {"words": _words(), "letters": letters, "shape": TextShape(), "meaning": SentenceEmbedder()}
    seconds = {}
    for name, step in steps.items():
        step.fit(texts[:2000])
        step.transform(some[:8])
        start = process_time()
        step.transform(some)
        seconds[name] = (process_time() - start) / len(some)
    return {"words": seconds["words"], "meaning": seconds["meaning"], "text": sum(seconds.values()), "domain": 0.0}


def _size(router: Any) -> int:
    """Bytes of a saved router, without the transformers of the text that stand before it; 0 if it cannot be saved."""
    steps = getattr(router, "steps", None)
    model = router if steps is None else steps[-1][1]
    if hasattr(model, "features_"):
        # A stack keeps its transformers, which are the cached ones here.
        models = list(model.members_.values())
    else:
        models = [model]
    total = 0
    for each in models:
        with tempfile.TemporaryDirectory() as folder:
            try:
                defer.save(each, Path(folder) / "policy")
            except defer.exceptions.PersistenceError as error:
                print(f"{type(each).__name__} not saved: {error}", file=sys.stderr, flush=True)
                return 0
            total += sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return total


def _path(fold: Fold, candidate: Candidate, part: RoutingSet) -> Path:
    router = candidate.make(part)
    steps = [step for _, step in getattr(router, "steps", [("", router)])]
    modules = {type(step).__module__ for step in steps} | (
        {"defer.estimators.text"} if candidate.features == "text" else set()
    )
    with sklearn.config_context(print_changed_only=False):
        shown = router.__repr__(N_CHAR_MAX=10**6)
    parts = [repr(fold), candidate.name, candidate.features, shown, _content(fold.name, fold.most), sklearn.__version__]
    parts += [_source_hash(name) for name in sorted(modules) if name.startswith("defer.")]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    return _FOLDER / fold.name / f"{key}.npz"


@lru_cache(maxsize=64)
def _content(name: str, most: int) -> str:
    """Hash of a set's queries and outcomes."""
    part = load(name, most)
    log, digest = part.log, hashlib.sha256()
    for table in (log.quality, log.cost):
        digest.update(np.ascontiguousarray(table).tobytes())
    digest.update("\0".join(log.X).encode() if part.is_text else np.ascontiguousarray(log.X).tobytes())
    digest.update(repr(None if log.domain is None else list(log.domain)).encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _source_hash(module: str) -> str:
    """Hash of the sources of a module of `defer` and of all modules of `defer` that it imports."""
    seen: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not path.exists():
            continue
        seen[name] = path.read_bytes()
        for node in ast.walk(ast.parse(seen[name])):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("defer."):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return hashlib.sha256(b"".join(seen[name] for name in sorted(seen))).hexdigest()
