"""Saving and loading fitted policies without pickle: a skops file and a manifest that says what is in it.

A policy is a folder of two files.  The manifest names its model file by content, and is put in place last and in one step:
whatever interrupts a save, the folder holds the whole old policy or the whole new one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import InvalidVersion, Version

from defer._version import __version__
from defer.estimators.pipeline import describe
from defer.exceptions import PersistenceError
from defer.fingerprint import log_hash
from defer.model_file import model_bytes, model_from_bytes
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["check_queries", "load", "log_hash", "manifest", "save"]

_SCHEMA = 1
_MANIFEST, _SEAL = "manifest.json", "manifest_sha256"
_FIELDS = (
    "schema", "defer", "scikit-learn", "python", "router", "arms", "queries", "has_cost", "cost_weight", "operating_point",
    "mean_cost", "training_log", "metrics", "sha256", _SEAL,
)  # fmt: skip


def save(
    router: Any,
    folder: str | PathLike[str],
    *,
    log: OutcomeLog | None = None,
    queries: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    trusted: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Save a fitted router into a folder.

    Parameters
    ----------
    router : fitted router or pipeline
    folder : path
        Made if it is not there.  Other files in it are left alone.
    log : OutcomeLog, optional
        Training log; its hash goes into the manifest.
    queries : mapping, optional
        Where a table keeps the queries that this router takes: ``{"text": column}`` or ``{"features": [columns]}``.
        Kept in the manifest, for the command line and for MLflow.
    metrics : mapping of str to float, optional
        Kept in the manifest; numbers that are not finite become null.
    trusted : sequence of str, default=()
        Full names of foreign types that the router may hold, such as ``"lightgbm.sklearn.LGBMRegressor"``.  They must
        be named again to `load`.
    overwrite : bool, default=False
        Replace the policy that the folder holds.

    Raises
    ------
    PersistenceError
        If the folder holds a policy already, the router is not fitted, it holds a type that loading would refuse, or
        `queries` is not of that form.

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
    check_queries(queries)
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise PersistenceError(f"{str(target)!r} is a file; a policy is a folder")
    if (target / _MANIFEST).exists() and not overwrite:
        raise PersistenceError(f"{str(target)!r} holds a policy already; pass overwrite=True to replace it")
    try:
        arms = _plain_arms(router)
    except AttributeError:
        raise PersistenceError(
            f"only a fitted router can be saved, and this {type(router).__name__} has no arms_; "
            "a pipeline must come from defer.make_pipeline"
        ) from None
    data = model_bytes(router, trusted=trusted)
    document = {
        "schema": _SCHEMA,
        "defer": __version__,
        "scikit-learn": version("scikit-learn"),
        "python": platform.python_version(),
        "router": describe(router),
        "arms": arms,
        "queries": None if queries is None else dict(queries),
        "has_cost": bool(router.has_cost_),
        "cost_weight": float(router.cost_weight),
        "operating_point": _operating_point(router),
        "mean_cost": _mean_cost(router),
        "training_log": None if log is None else log_hash(log),
        "metrics": {name: _finite(value) for name, value in (metrics or {}).items()},
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        document[_SEAL] = _seal(document)
    except TypeError as error:
        raise PersistenceError(f"names of arms and of metrics= must be text or numbers: {error}") from None
    target.mkdir(parents=True, exist_ok=True)
    model = target / _model_name(document)
    _write(model, data)
    _write(target / _MANIFEST, (json.dumps(document, indent=2) + "\n").encode())
    for other in target.glob("model-*.skops"):
        if other != model:
            other.unlink(missing_ok=True)


def manifest(folder: str | PathLike[str]) -> dict[str, Any]:
    """Manifest of a saved policy.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict
        ``schema``, ``defer``, ``scikit-learn``, ``python`` (versions); ``router``, ``arms``, ``queries``, ``has_cost``,
        ``cost_weight``, ``operating_point``, ``mean_cost`` (US dollars per query, in the order of the arms),
        ``training_log`` (see `log_hash`), ``metrics``; ``sha256`` of the model file and ``manifest_sha256`` of all these.

    Raises
    ------
    PersistenceError
        If the folder holds no policy, one of another schema, or a manifest that is damaged or was changed.

    Examples
    --------
    >>> import tempfile
    >>> from defer.estimators import QualityRouter
    >>> router = QualityRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(router, folder, queries={"features": ["length"]})
    ...     manifest(folder)["queries"]
    {'features': ['length']}
    """
    path = Path(folder) / _MANIFEST
    if not path.is_file():
        raise PersistenceError(f"{str(folder)!r} holds no policy: there is no {_MANIFEST}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PersistenceError(f"{str(path)!r} is damaged: it is no JSON ({error})") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > _SCHEMA:
        raise PersistenceError(
            f"{str(folder)!r} has the policy format {schema}, and defer {__version__} reads up to format {_SCHEMA}: "
            "upgrade defer-learn"
        )
    missing = [name for name in _FIELDS if not isinstance(document, dict) or name not in document]
    if missing or schema != _SCHEMA or not re.fullmatch("[0-9a-f]{64}", str(document["sha256"])):
        what = f"it lacks {missing[0]!r}" if missing else "its format or its SHA-256 is none"
        raise PersistenceError(f"{str(path)!r} is damaged: {what}")
    if document[_SEAL] != _seal(document):
        raise PersistenceError(f"{str(path)!r} was changed after it was saved: its SHA-256 is not the one it states")
    return dict(document)


def load(folder: str | PathLike[str], *, trusted: Sequence[str] = ()) -> Any:
    """Load a saved router.

    Parameters
    ----------
    folder : path
    trusted : sequence of str, default=()
        Full names of foreign types to load; a type can run code of its own, so name only what you know.

    Returns
    -------
    fitted router or pipeline

    Raises
    ------
    PersistenceError
        If the folder holds no policy, a file is damaged or was changed since it was saved, it was saved with a later
        defer or with a later or another major version of scikit-learn, or it holds a type that is not trusted.

    Notes
    -----
    Hashes find damage and careless edits.  They are no signature: whoever can write the folder can write hashes too,
    which is why types are checked whatever the hashes say.

    Examples
    --------
    >>> import tempfile
    >>> from defer.estimators import SingleArm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(SingleArm().fit([[0.0], [1.0]], [[1.0, 0.0], [1.0, 0.0]]), folder)
    ...     load(folder)
    SingleArm()
    """
    document = manifest(folder)
    path = Path(folder) / _model_name(document)
    if not path.is_file():
        raise PersistenceError(f"{str(folder)!r} has no {path.name}, which its manifest names")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != document["sha256"]:
        raise PersistenceError(f"{str(path)!r} was changed after it was saved: its SHA-256 is not the manifest's")
    _check_versions(document, folder)
    router = model_from_bytes(data, trusted=trusted, source=repr(str(folder)))
    if not hasattr(router, "arms_") or _plain_arms(router) != document["arms"]:
        raise PersistenceError(f"{str(folder)!r}: the arms of the model and of the manifest differ")
    return router


def check_queries(queries: Any) -> None:
    """Refuse names of queries that a policy cannot be used with.

    Parameters
    ----------
    queries : mapping or None
        As for `save`.

    Raises
    ------
    PersistenceError
        If it is neither ``{"text": column}`` nor ``{"features": [columns]}``.

    Examples
    --------
    >>> check_queries({"features": ["length", "digits"]})
    """
    if queries is None:
        return
    form = "queries= must be {'text': column} or {'features': [columns]}"
    if not isinstance(queries, Mapping):
        raise PersistenceError(f"{form}, got {queries!r}")
    if set(queries) not in ({"text"}, {"features"}):
        raise PersistenceError(f"{form}, got keys {list(queries)}")
    if "text" in queries:
        if not isinstance(queries["text"], str):
            raise PersistenceError(f"{form}, and a column is a str; got {queries['text']!r}")
        return
    names = queries["features"]
    if not isinstance(names, (list, tuple)) or not names:
        raise PersistenceError(f"{form}, with a list of at least one column; got {names!r}")
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise PersistenceError(f"{form}, and a column is a str; got {wrong[0]!r} as one of {len(names)}")


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _model_name(document: Mapping[str, Any]) -> str:
    return f"model-{document['sha256'][:12]}.skops"


def _seal(document: Mapping[str, Any]) -> str:
    content = {name: value for name, value in document.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_versions(document: Mapping[str, Any], folder: str | PathLike[str]) -> None:
    for package, here in (("defer", __version__), ("scikit-learn", version("scikit-learn"))):
        try:
            saved, own = Version(str(document[package])), Version(here)
        except InvalidVersion:
            raise PersistenceError(
                f"{str(folder)!r} is damaged: {document[package]!r} is no version of {package}"
            ) from None
        other_major = package == "scikit-learn" and saved.major != own.major
        if saved.release[:2] > own.release[:2] or other_major:
            raise PersistenceError(
                f"{str(folder)!r} was saved with {package} {saved}, and here is {own}: install that version, or fit again"
            )


def _plain_arms(router: Any) -> list[Any]:
    return [arm.item() if isinstance(arm, np.generic) else arm for arm in router.arms_]


def _inner(router: Any) -> Any:
    return router.steps[-1][1] if hasattr(router, "steps") else router


def _operating_point(router: Any) -> dict[str, Any] | None:
    inner = _inner(router)
    point = getattr(inner, "operating_point_", None)
    if point is None:
        return None
    numbers = {name: _finite(getattr(point, name)) for name in ("price", "fraction", "mean_quality", "mean_cost")}
    return {"limit": repr(getattr(inner, "limit_", inner.limit)), **numbers}


def _mean_cost(router: Any) -> list[float | None] | None:
    inner = _inner(router)
    return [_finite(value) for value in inner.mean_cost_] if router.has_cost_ else None


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
