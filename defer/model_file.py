"""A fitted router as the bytes of a skops file and back, with nothing in it but data and known classes."""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Sequence
from typing import Any

from defer.exceptions import PersistenceError

__all__ = ["model_bytes", "model_from_bytes"]

# Classes of these modules may be in a policy; everything else must be a type that skops trusts by itself, plain data of
# SciPy, or be named by the caller.
_OWN = ("defer.estimators.", "defer.portfolios.arm_matrix.", "defer.portfolios.limits.")
_SPARSE = {f"scipy.sparse._csr.csr_{kind}" for kind in ("matrix", "array")}


def model_bytes(router: Any, *, trusted: Sequence[str] = ()) -> bytes:
    """Contents of a skops file.

    Parameters
    ----------
    router : fitted router or pipeline
    trusted : sequence of str, default=()
        Full names of foreign types that it may hold.

    Raises
    ------
    PersistenceError
        If skops cannot write it, or it holds a type that loading would refuse.

    Examples
    --------
    >>> from defer.estimators import SingleArm
    >>> model_from_bytes(model_bytes(SingleArm("large")))
    SingleArm(arm='large')
    """
    import skops.io

    failure = "this router cannot be saved so that it loads again"
    try:
        data = skops.io.dumps(_packed(router), compression=zipfile.ZIP_DEFLATED)
    except Exception as error:  # skops raises a type of its own for every kind of object that it cannot write
        raise PersistenceError(f"{failure}: {_why_not_saved(router, set()) or error}") from error
    _check_types(data, failure, trusted)
    return bytes(data)


def model_from_bytes(data: bytes, *, trusted: Sequence[str] = (), source: str = "the model") -> Any:
    """Router from the contents of a skops file.

    Parameters
    ----------
    data : bytes
    trusted : sequence of str, default=()
        Full names of foreign types to load.
    source : str, default="the model"
        What messages call it.

    Raises
    ------
    PersistenceError
        If the file is damaged, holds a type that is not trusted, or does not fit the classes of this version.
    """
    import skops.io

    failure = f"{source} is not loaded"
    types = _check_types(data, failure, trusted)
    try:
        return _unpacked(skops.io.loads(data, trusted=types))
    except Exception as error:  # whatever a model raises that does not fit the classes of these versions
        raise PersistenceError(f"{failure}: it cannot be rebuilt ({type(error).__name__}: {error})") from error


def _check_types(data: bytes, failure: str, trusted: Sequence[str]) -> list[str]:
    """Types to trust beyond those of skops, all of which are allowed."""
    import skops.io

    try:
        found = skops.io.get_untrusted_types(data=data)
    except Exception as error:  # whatever a damaged archive raises
        raise PersistenceError(f"{failure}: the file cannot be read ({type(error).__name__}: {error})") from None
    foreign = sorted(name for name in found if name not in _SPARSE and name not in trusted and not _is_own(name))
    if foreign:
        raise PersistenceError(
            f"{failure}: it holds {len(foreign)} types that are not trusted, the first is {foreign[0]!r}; "
            "if you know it, name it in trusted="
        )
    return list(found)


def _is_own(name: str) -> bool:
    # The module alone is not enough: skops would also reach every function and class that the module imports.  One of
    # our own classes may have moved since the policy was saved, if its old module still hands it on.
    module, _, attribute = name.rpartition(".")
    if not name.startswith(_OWN):
        return False
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    return isinstance(found, type) and f"{found.__module__}.".startswith(_OWN)


def _why_not_saved(value: Any, seen: set[int]) -> str | None:
    """What the first part says that knows that it cannot be saved; None where none does."""
    if id(value) in seen or isinstance(value, type):
        return None
    seen.add(id(value))
    reason = getattr(value, "not_saved", None)
    if isinstance(reason, str):
        return reason
    parts: list[Any] = []
    if isinstance(value, (list, tuple)):
        parts = list(value)
    elif isinstance(value, dict):
        parts = list(value.values())
    elif hasattr(value, "get_params"):
        parts = list(vars(value).values())
    return next(filter(None, (_why_not_saved(part, seen) for part in parts)), None)


def _packed(router: Any) -> Any:
    """The router with every vocabulary as one string: skops writes a file per entry, in time quadratic in their number."""

    def pack(value: Any) -> Any:
        if isinstance(value, dict) and all(isinstance(term, str) for term in value):
            return json.dumps({term: int(column) for term, column in value.items()}, ensure_ascii=False)
        return value

    return _with_vocabulary(router, pack, {})


def _unpacked(router: Any) -> Any:
    return _with_vocabulary(router, lambda value: json.loads(value) if isinstance(value, str) else value, {})


def _with_vocabulary(value: Any, change: Any, done: dict[int, Any]) -> Any:
    """A copy of a tree of estimators in which `change` was applied to each ``vocabulary_``; the rest is shared."""
    if id(value) in done:
        return done[id(value)]
    result = value
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        parts = [_with_vocabulary(part, change, done) for part in value]
        if any(part is not old for part, old in zip(parts, value, strict=True)):
            result = type(value)(parts)
    elif isinstance(value, dict) and type(value) is dict:
        named = {name: _with_vocabulary(part, change, done) for name, part in value.items()}
        if any(named[name] is not old for name, old in value.items()):
            result = named
    elif hasattr(value, "get_params") and not isinstance(value, type):
        state = {
            name: change(part) if name == "vocabulary_" else _with_vocabulary(part, change, done)
            for name, part in vars(value).items()
        }
        if any(state[name] is not old for name, old in vars(value).items()):
            result = object.__new__(type(value))
            result.__dict__.update(state)
    done[id(value)] = result
    return result
