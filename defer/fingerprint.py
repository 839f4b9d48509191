"""A hash of an outcome log, to tell later which log a policy was trained on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from defer.portfolios.outcomes import OutcomeLog

__all__ = ["log_hash"]


def log_hash(log: OutcomeLog) -> str:
    """SHA-256 of a log: queries, arms, outcomes and decisions, in order.

    Parameters
    ----------
    log : OutcomeLog

    Returns
    -------
    str
        64 hexadecimal digits; the same after a round trip through Parquet.

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(["a", "b"], [[1.0, 0.0], [0.0, 1.0]])
    >>> log_hash(log) == log_hash(log.select(rows=[0, 1])), log_hash(log) == log_hash(log.select(rows=[1, 0]))
    (True, False)
    """
    digest = hashlib.sha256(json.dumps(list(log.arms)).encode())
    for name in ("quality", "cost", "latency", "action", "propensity"):
        values = getattr(log, name)
        if values is not None:
            _digest_array(digest, name, np.asarray(values))
    _digest_queries(digest, log.X)
    return digest.hexdigest()


def _digest_array(digest: Any, name: str, values: NDArray[Any]) -> None:
    kind = np.int64 if values.dtype.kind in "iub" else np.float64
    plain = np.ascontiguousarray(values, dtype=kind)
    if kind is np.float64:
        plain = np.where(np.isnan(plain), np.nan, plain) + 0.0  # one bit pattern for NaN, one for zero
    digest.update(f"{name}{plain.shape}".encode())
    digest.update(plain.tobytes())


def _digest_queries(digest: Any, X: Any) -> None:
    if X is None:
        return
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        for name in frame.columns:
            digest.update(json.dumps([name, frame[name].to_list()], default=str).encode())
    elif issparse(X):
        rows = csr_array(X)
        for name in ("indptr", "indices", "data"):
            _digest_array(digest, name, getattr(rows, name))
    elif isinstance(X, np.ndarray) and X.dtype.kind in "biuf":
        _digest_array(digest, "X", X)
    else:
        digest.update(json.dumps(list(X), default=str).encode())
