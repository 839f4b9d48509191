"""Logged votes and readings as tables of answers, one column an expert."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["draw_votes", "has_one_mode", "pooled", "wide", "yes_no"]


def pooled(names: pd.Series, least: int, rest: str) -> pd.Series:
    """Names that occur fewer than `least` times replaced by `rest`."""
    return names.where(names.map(names.value_counts()) >= least, rest)


def wide(shuffled: pd.DataFrame, query: str, who: str, answer: str) -> pd.DataFrame:
    """One column an expert; of several answers of a pool to a query the first, so rows come in random order."""
    table = shuffled.drop_duplicates([query, who]).pivot(index=query, columns=who, values=answer)
    names = sorted(table.columns, key=lambda name: (name.startswith("another"), name))
    return table[names].rename_axis(columns=None)


def yes_no(labels: pd.Series) -> pd.Series:
    """Words for 1 and 0, None for missing labels."""
    return labels.map({0: "no", 1: "yes"}).astype(object).where(labels.notna(), None)


def draw_votes(votes: NDArray[np.int_], k: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Classes of k votes of each row, drawn without replacement, shape (n, k)."""
    row, label = (np.repeat(index.ravel(), votes.ravel()) for index in np.indices(votes.shape))
    order = np.lexsort((rng.random(len(row)), row))
    start = np.cumsum(votes.sum(axis=1)) - votes.sum(axis=1)
    return label[order][start[:, None] + np.arange(k)]


def has_one_mode(votes: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Rows without a tie at the top, shape (n,)."""
    return (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
