"""A real deferral problem as the benchmarks see it: what is known before, who answers, who can be asked, and references."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit

__all__ = ["DeferralSet", "Rows", "outcomes", "references", "rows_of", "split"]

LEAST_ANSWERS = 30
"""An arm with fewer answers in the training part is never called the best single one."""

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class DeferralSet:
    """A deferral problem, with the answers of everybody (`kind` "answers") or only whether they were right ("quality").

    Attributes
    ----------
    name : str
    what : str
        What is own, who the experts are, what the query is, what is missing or simulated.
    X : frame, array or list of str, n rows
        What is known before anybody is asked.
    cost : array of shape (J,)
        Of asking each expert on top of the own answer, in units of accuracy.
    cost_note : str
        Where it comes from.
    features : transformer
        Unfitted; takes `X`.
    base : classifier or None
        Unfitted; takes what `features` gives and makes the own answer.  None for quality, where the own arm is logged.
    y : array of shape (n,), or None
        True labels.
    experts : frame of shape (n, J), or None
        Answers, None where there is none.
    quality : frame of shape (n, 1 + J), or None
        1 where an arm is right, NaN where it did not answer; the own arm comes first.
    groups : array of shape (n,), or None
        Rows of one group belong on one side of a split.
    own : array of shape (n,), or None
        The own answers, where they are logged.
    usd : frame of shape (n, 1 + J), or None
        Dollars per query and arm, where known.
    """

    name: str
    what: str
    X: Any
    cost: NDArray[np.float64]
    cost_note: str
    features: Any
    base: Any = None
    y: NDArray[Any] | None = None
    experts: pd.DataFrame | None = None
    quality: pd.DataFrame | None = None
    groups: NDArray[Any] | None = None
    own: NDArray[Any] | None = None
    usd: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        if (self.quality is None) == (self.y is None or self.experts is None):
            raise ValueError(f"{self.name}: give either quality, or y and experts")

    def __len__(self) -> int:
        return len(self.experts if self.quality is None else self.quality)

    @property
    def kind(self) -> Literal["answers", "quality"]:
        """What is known of the experts."""
        return "answers" if self.quality is None else "quality"

    @property
    def arms(self) -> list[str]:
        """The own arm and the experts."""
        return ["own", *self.experts] if self.quality is None else list(self.quality)

    def select(self, rows: Rows) -> Self:
        """These rows only."""
        parts = ("X", "y", "experts", "quality", "groups", "own", "usd")
        present = {part: getattr(self, part) for part in parts if getattr(self, part) is not None}
        return replace(self, **{part: rows_of(value, rows) for part, value in present.items()})


def rows_of(X: Any, rows: Rows) -> Any:
    """Rows of a list, frame, array or sparse matrix."""
    if isinstance(X, list):
        return [X[row] for row in rows]
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def split(part: DeferralSet, seed: int, *, test_size: float = 0.3) -> tuple[Rows, Rows]:
    """Training and test rows in ascending order, the rows of a group on one side."""
    groups = np.arange(len(part)) if part.groups is None else part.groups
    splitter = GroupShuffleSplit(n_splits=1, test_size=test_size, random_state=seed)
    train, test = next(splitter.split(np.zeros(len(part)), groups=groups))
    return np.sort(train), np.sort(test)


def outcomes(part: DeferralSet, own: Any = None) -> pd.DataFrame:
    """Whether each arm is right, shape (n, 1 + J), NaN where it did not answer.

    `own` holds the own answers, shape (n,); without it those of the set are read, if it has some.
    """
    if part.quality is not None:
        return part.quality
    own = part.own if own is None else np.asarray(own)
    if own is None:
        raise ValueError(f"{part.name}: the own answers are not logged; give own=, the answers of a fitted classifier")
    right = part.experts.eq(part.y, axis=0).astype(float).where(part.experts.notna())
    right.insert(0, "own", (own == part.y).astype(float))
    return right


def references(
    part: DeferralSet, own: Any = None, *, train: Rows | None = None, test: Rows | None = None
) -> pd.DataFrame:
    """What needs no deferral rule: the own answer, the best single arm, a random one, and the oracle.

    Every arm is judged on the rows that it answered, the oracle and the random choice among the arms that answered the row.
    The best single arm has the highest utility (accuracy less cost) on `train`; without it, in hindsight.

    Returns
    -------
    frame
        One row a reference: ``accuracy``, ``cost``, ``utility``, ``asked`` (share of rows not answered by own), ``rows``.
    """
    table, price = outcomes(part, own), np.array([0.0, *part.cost])
    train, test = (np.arange(len(part)) if rows is None else rows for rows in (train, test))
    known = table.iloc[train].to_numpy()
    enough = np.isfinite(known).sum(axis=0) >= min(LEAST_ANSWERS, len(train))
    mean = np.divide(
        np.nansum(known, axis=0), np.isfinite(known).sum(axis=0), where=enough, out=np.full(len(price), -np.inf)
    )
    best = int((mean - price).argmax())
    right = table.iloc[test].to_numpy()
    answered = np.isfinite(right)
    uniform = answered / answered.sum(axis=1, keepdims=True)
    oracle = np.eye(len(price))[np.where(answered, right - price, -np.inf).argmax(axis=1)]
    single = {"own": 0, f"best single ({part.arms[best]})": best}
    weights = {name: np.where(answered, np.eye(len(price))[arm], 0.0) for name, arm in single.items()}
    weights |= {"random": uniform, "oracle": oracle}
    return pd.DataFrame({name: _weighed(weight, right, price) for name, weight in weights.items()}).T


def _weighed(weight: NDArray[np.float64], right: NDArray[np.float64], price: NDArray[np.float64]) -> dict[str, float]:
    rows = weight.sum()
    accuracy = (weight * np.nan_to_num(right)).sum() / rows
    cost, asked = (weight @ price).sum() / rows, weight[:, 1:].sum() / rows
    return {"accuracy": accuracy, "cost": cost, "utility": accuracy - cost, "asked": asked, "rows": round(rows)}
