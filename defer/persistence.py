"""Saving and loading fitted policies without pickle: a skops file and a manifest that says what is in it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from defer._version import __version__
from defer.exceptions import PersistenceError
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["load", "log_hash", "manifest", "save"]

_SCHEMA = 1
_MODEL, _MANIFEST = "model.skops", "manifest.json"

# Types of ours that a policy may hold; everything else must be one that skops trusts by itself.
_OWN = (
    "defer.estimators.base.",
    "defer.estimators.baselines.",
    "defer.estimators.embeddings.",
    "defer.estimators.pipeline.",
    "defer.estimators.quality.",
    "defer.estimators.routers.",
    "defer.estimators.tuning.",
    "defer.portfolios.arm_matrix.",
    "defer.portfolios.limits.",
)

# Plain data of SciPy, which skops rebuilds from arrays.
_SPARSE = {f"scipy.sparse._csr.csr_{kind}" for kind in ("matrix", "array")}


def save(
    router: Any,
    folder: str | PathLike[str],
    *,
    log: OutcomeLog | None = None,
    metrics: dict[str, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Save a fitted router into a folder.

    Parameters
    ----------
    router : fitted router or pipeline
    folder : path
        Made if it is not there.
    log : OutcomeLog, optional
        Training log; its hash goes into the manifest.
    metrics : dict of str to float, optional
        Kept in the manifest.
    overwrite : bool, default=False

    Raises
    ------
    PersistenceError
        If the folder holds a policy already, the router is not fitted, or it holds a type that loading would refuse.

    Examples
    --------
    >>> import tempfile
    >>> from defer.estimators import QualityRouter
    >>> router = QualityRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(router, folder)
    ...     load(folder).predict([[0.9]]).tolist()
    [1]
    """
    import skops.io

    target = Path(folder)
    if (target / _MANIFEST).exists() and not overwrite:
        raise PersistenceError(f"{str(target)!r} holds a policy already; pass overwrite=True to replace it")
    try:
        arms = [arm.item() if isinstance(arm, np.generic) else arm for arm in router.arms_]
    except AttributeError:
        raise PersistenceError(
            f"only a fitted router can be saved, and this {type(router).__name__} has no arms_"
        ) from None
    data = skops.io.dumps(router)
    _check_types(data, "this router cannot be saved so that it loads again")
    document = {
        "schema": _SCHEMA,
        "defer": __version__,
        "scikit-learn": version("scikit-learn"),
        "python": platform.python_version(),
        "router": type(router).__name__,
        "arms": arms,
        "has_cost": bool(router.has_cost_),
        "cost_weight": float(router.cost_weight),
        "operating_point": _operating_point(router),
        "mean_cost": _mean_cost(router),
        "training_log": None if log is None else log_hash(log),
        "metrics": metrics or {},
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / _MODEL).write_bytes(data)
    (target / _MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def manifest(folder: str | PathLike[str]) -> dict[str, Any]:
    """Manifest of a saved policy.

    Raises
    ------
    PersistenceError
        If the folder holds no policy, or one of another schema.
    """
    path = Path(folder) / _MANIFEST
    if not path.is_file():
        raise PersistenceError(f"{str(folder)!r} holds no policy: there is no {_MANIFEST}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema = document["schema"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise PersistenceError(f"{str(path)!r} is damaged") from None
    if schema != _SCHEMA:
        raise PersistenceError(
            f"{str(folder)!r} has the policy format {schema}, and defer {__version__} reads format {_SCHEMA}"
        )
    return dict(document)


def load(folder: str | PathLike[str]) -> Any:
    """Load a saved router.

    Raises
    ------
    PersistenceError
        If the folder holds no policy, a file was changed since it was saved, it was saved with another major version of
        scikit-learn or a later defer, or it holds a type that is not trusted.
    """
    import skops.io

    document = manifest(folder)
    path = Path(folder) / _MODEL
    if not path.is_file():
        raise PersistenceError(f"{str(folder)!r} has no {_MODEL}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != document.get("sha256"):
        raise PersistenceError(f"{str(path)!r} was changed after it was saved: its SHA-256 is not the manifest's")
    for package, here in (("defer", __version__), ("scikit-learn", version("scikit-learn"))):
        saved = str(document.get(package))
        if saved.split(".")[:2] > here.split(".")[:2] or saved.split(".")[0] != here.split(".")[0]:
            raise PersistenceError(
                f"{str(folder)!r} was saved with {package} {saved}, and here is {here}: install that version, or fit again"
            )
    _check_types(data, f"{str(folder)!r} is not loaded")
    router = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    if [str(arm) for arm in router.arms_] != [str(arm) for arm in document["arms"]]:
        raise PersistenceError(f"{str(folder)!r}: the arms of the model and of the manifest differ")
    return router


def log_hash(log: OutcomeLog) -> str:
    """SHA-256 of the outcomes of a log: arms, quality, cost and decisions, in order."""
    digest = hashlib.sha256(json.dumps(log.arms).encode())
    for name in ("quality", "cost", "latency", "action", "propensity"):
        values = getattr(log, name)
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _check_types(data: bytes, failure: str) -> None:
    import skops.io

    try:
        untrusted = skops.io.get_untrusted_types(data=data)
    except Exception as error:  # whatever a damaged archive raises
        raise PersistenceError(f"{failure}: the file cannot be read ({error})") from None
    foreign = sorted(name for name in untrusted if not name.startswith(_OWN) and name not in _SPARSE)
    if foreign:
        raise PersistenceError(
            f"{failure}: it holds {len(foreign)} types that are not trusted, the first is {foreign[0]!r}"
        )


def _inner(router: Any) -> Any:
    return router.steps[-1][1] if hasattr(router, "steps") else router


def _operating_point(router: Any) -> dict[str, Any] | None:
    inner = _inner(router)
    point = getattr(inner, "operating_point_", None)
    if point is None:
        return None
    numbers = {name: float(getattr(point, name)) for name in ("price", "fraction", "mean_quality", "mean_cost")}
    return {
        "limit": repr(inner.limit),
        **{name: value if np.isfinite(value) else None for name, value in numbers.items()},
    }


def _mean_cost(router: Any) -> list[float] | None:
    cost = getattr(_inner(router), "mean_cost_", None)
    return None if cost is None else [float(value) for value in cost]
