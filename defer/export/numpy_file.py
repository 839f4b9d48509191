"""A fitted policy as one ``.npz`` file that NumPy alone can run."""

from __future__ import annotations

import json
from os import PathLike
from typing import Any, BinaryIO

import numpy as np

from defer.export.parts import policy_parts

__all__ = ["to_numpy"]


def to_numpy(router: Any, file: str | PathLike[str] | BinaryIO) -> None:
    """Write a linear or nearest-neighbour policy as arrays.

    ``defer/export/runtime.py`` reads the file again, and needs NumPy and the standard library only: copy it to where the
    policy runs.

    Parameters
    ----------
    router : fitted router, pipeline or tuned router
        `QualityRouter` on linear models or logistic regressions, or `KNNRouter`; behind `StandardScaler`, or behind
        `TfidfVectorizer` or a union of them, as ``defer.router(embeddings=False)`` has it: then the file takes texts.
    file : path or binary file
        ``.npz``, no pickle.

    Raises
    ------
    RouterInputError
        If a part of the router cannot be written as arrays.

    Notes
    -----
    Decisions are those of ``predict``: a limit or a draw at random is no part of the file.  Sums may be taken in another order
    than scikit-learn takes them, so that predictions differ in the last digits, and where logged queries are equally far the
    neighbourhood may be completed by another of them.

    Examples
    --------
    >>> import io
    >>> from defer.estimators import QualityRouter
    >>> from defer.export.runtime import NumpyPolicy
    >>> router = QualityRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> file = io.BytesIO()
    >>> to_numpy(router, file)
    >>> _ = file.seek(0)
    >>> NumpyPolicy(file).predict([[0.9]])
    [1]
    """
    parts = policy_parts(router)
    spec = np.frombuffer(json.dumps(parts.spec).encode(), dtype=np.uint8)
    np.savez_compressed(file, allow_pickle=False, spec=spec, **parts.arrays)
