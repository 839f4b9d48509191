"""Battles: which of two models gave the better answer, as a table of qualities and back.

A battle is a row in which two arms were observed, so preferences are fitted like any other outcomes, and every pair of
observed outcomes of a row is a battle; an outcome that stands alone fights those of other rows.  Source: RouteLLM's preference data (Ong et al., ICLR 2025).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import OutcomeLogError
from defer.portfolios.arm_matrix import ArmMatrix

__all__ = ["Battles", "battles", "preference_table", "shares_beside"]

Floats = NDArray[np.float64]

# As the logs of Chatbot Arena write them, and short.
_WORDS = {"a": 1.0, "b": 0.0, "tie": 0.5, "model_a": 1.0, "model_b": 0.0, "tie (bothbad)": 0.5}


def preference_table(
    model_a: Iterable[Any], model_b: Iterable[Any], winner: Iterable[Any], *, arms: Sequence[Any] | None = None
) -> ArmMatrix:
    """Quality table of n battles: 1 for the winner and 0 for the loser, 0.5 for both after a tie, NaN elsewhere.

    Every router is fitted on it by ``fit(X, table)``, with the prompts of the battles as `X`.

    Parameters
    ----------
    model_a, model_b : sequences of n names
    winner : sequence of n values
        "a", "b" or "tie" ("model_a", "model_b" and "tie (bothbad)" are read too), or the name of the winner, or the
        share of the win that the first model gets: 1, 0.5 or 0.
    arms : sequence of names, optional
        Columns of the table.  All models that fought, in sorted order, by default.

    Returns
    -------
    ArmMatrix of shape (n, m)

    Raises
    ------
    OutcomeLogError
        If lengths differ, nothing is given, a winner is none of these, a name is missing or not among `arms`, or a model
        fights itself; names the row and the value.

    Examples
    --------
    >>> table = preference_table(["gpt", "gpt", "mix"], ["mix", "llama", "llama"], ["a", "tie", "llama"])
    >>> table.arms
    ('gpt', 'llama', 'mix')
    >>> table.tolist()
    [[1.0, nan, 0.0], [0.5, 0.5, nan], [nan, 1.0, 0.0]]
    """
    first, second, won = _plain("model_a", model_a), _plain("model_b", model_b), _plain("winner", winner)
    if not len(first) == len(second) == len(won):
        raise OutcomeLogError(
            f"model_a, model_b and winner must be equally long, got {len(first)}, {len(second)} and {len(won)} rows"
        )
    if not first:
        raise OutcomeLogError("model_a, model_b and winner have no row; a table needs at least one battle")
    names = _arms(first, second) if arms is None else _plain("arms", arms)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OutcomeLogError(f"arms names {twice[0]!r} {names.count(twice[0])} times")
    place = {name: column for column, name in enumerate(names)}
    for label, given in (("model_a", first), ("model_b", second)):
        unknown = [row for row, name in enumerate(given) if name not in place]
        if unknown:
            raise OutcomeLogError(
                f"{label} has {len(unknown)} names that are not in arms, the first in row {unknown[0]} "
                f"({given[unknown[0]]!r}); arms are {names}"
            )
    same = [row for row, (a, b) in enumerate(zip(first, second, strict=True)) if a == b]
    if same:
        raise OutcomeLogError(
            f"{len(same)} of {len(first)} battles are of a model against itself, the first in row {same[0]} "
            f"({first[same[0]]!r}); leave them out"
        )
    share = np.array([_share(row, *battle) for row, battle in enumerate(zip(first, second, won, strict=True))])
    rows = np.arange(len(first))
    table = np.full((len(first), len(names)), np.nan)
    table[rows, [place[name] for name in first]] = share
    table[rows, [place[name] for name in second]] = 1.0 - share
    return ArmMatrix(table, names)


@dataclass(frozen=True, eq=False)
class Battles:
    """Pairs of outcomes that are compared.

    Attributes
    ----------
    row : int array of shape (p,)
        Query of every battle, rising.
    first, second : int arrays of shape (p,)
        Its two arms.
    win : array of shape (p,)
        Share of the win that the first arm gets: 1, 0.5 or 0, or the chance of it where an outcome stood alone.
    within_row : bool array of shape (p,)
        Whether both outcomes of the battle were observed, in the same row.

    Examples
    --------
    >>> one = Battles(np.array([0]), np.array([0]), np.array([1]), np.array([0.5]), within_row=np.array([True]))
    >>> len(one)
    1
    """

    row: NDArray[np.intp]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    win: Floats
    within_row: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)


def battles(quality: Floats, weight: Floats | None = None) -> Battles:
    """Every two observed outcomes of a query as a battle, won by the higher one; equal ones are a tie.

    An outcome that is the only one of its query, as all of a bandit log are, fights what is known of the other arms: its share
    of the win over arm b is P(quality > Q_b) + P(quality = Q_b) / 2, with Q_b drawn from all observed outcomes of b, in whatever
    row.  Rows of both kinds may stand in one log.  This way of reading single outcomes is ours.

    Parameters
    ----------
    quality : array of shape (n, m)
        NaN = not observed.
    weight : array of shape (n,), optional
        Weight of the outcomes of every row among those of their arm; rows without weight are left out.

    Returns
    -------
    Battles
        Memory is O(battles): m (m - 1) / 2 of a query observed in full.

    Examples
    --------
    >>> found = battles(np.array([[1.0, 0.5, 0.5], [np.nan, 0.2, np.nan], [0.0, np.nan, 1.0]]))
    >>> found.row.tolist(), found.first.tolist(), found.second.tolist(), found.win.tolist()
    ([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0], [1, 2, 2, 0, 2, 2], [1.0, 1.0, 0.5, 0.5, 0.0, 0.0])
    >>> found.within_row.tolist()
    [True, True, True, False, False, True]
    """
    quality = np.asarray(quality, dtype=np.float64)
    seen = np.isfinite(quality) if weight is None else np.isfinite(quality) & (weight > 0)[:, None]
    alone, m = seen & (seen.sum(axis=1, keepdims=True) == 1), quality.shape[1]
    found: list[tuple[NDArray[np.intp], int, int, bool, Floats]] = []
    for a in range(m):
        single = np.flatnonzero(alone[:, a])
        for b in range(m):
            if b > a:
                rows = np.flatnonzero(seen[:, a] & seen[:, b])
                found.append((rows, a, b, True, 0.5 + 0.5 * np.sign(quality[rows, a] - quality[rows, b])))
            if b != a and len(single):
                mass = None if weight is None else weight[seen[:, b]]
                below, above = shares_beside(quality[single, a], quality[seen[:, b], b], mass)
                found.append((single, a, b, False, 0.5 + 0.5 * (below - above)))
    if not found:
        none = np.zeros(0, dtype=np.intp)
        return Battles(none, none, none, np.zeros(0), np.zeros(0, dtype=bool))
    row = np.concatenate([rows for rows, *_ in found])
    count = [len(rows) for rows, *_ in found]
    order = np.argsort(row, kind="stable")
    first, second, within = (np.repeat([pair[side] for pair in found], count)[order] for side in (1, 2, 3))
    return Battles(row[order], first, second, np.concatenate([pair[4] for pair in found])[order], within)


def shares_beside(values: Floats, others: Floats, weight: Floats | None = None) -> tuple[Floats, Floats]:
    """Shares of some outcomes that lie below and above each of some values.

    Parameters
    ----------
    values : array of shape (k,)
    others : array of shape (p,)
    weight : array of shape (p,), optional
        Of the others, >= 0.

    Returns
    -------
    below, above : arrays of shape (k,)
        0 where there are no others of positive weight.

    Examples
    --------
    >>> below, above = shares_beside(np.array([0.5, 2.0]), np.array([0.0, 0.5, 1.0, 1.0]))
    >>> below.tolist(), above.tolist()
    ([0.25, 1.0], [0.5, 0.0])
    """
    order = np.argsort(others, kind="stable")
    mass = np.ones(len(others)) if weight is None else weight
    total = np.concatenate(([0.0], np.cumsum(mass[order])))
    if total[-1] == 0:
        return np.zeros(len(values)), np.zeros(len(values))
    low, high = (np.searchsorted(others[order], values, side=side) for side in ("left", "right"))
    return total[low] / total[-1], 1.0 - total[high] / total[-1]


def _plain(label: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise OutcomeLogError(f"{label} must be a sequence with one value per battle, got {values!r}")
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _arms(first: list[Any], second: list[Any]) -> list[Any]:
    for label, names in (("model_a", first), ("model_b", second)):
        missing = [row for row, name in enumerate(names) if name is None or name != name or name == ""]
        if missing:
            raise OutcomeLogError(f"{label} has {len(missing)} rows without a name, the first is row {missing[0]}")
    found = list(dict.fromkeys([*first, *second]))
    return sorted(found) if len({type(name) for name in found}) == 1 else sorted(found, key=str)


def _share(row: int, a: Any, b: Any, winner: Any) -> float:
    by_name = 1.0 if winner == a else 0.0 if winner == b else None
    by_word = _WORDS.get(winner) if isinstance(winner, str) else None
    if isinstance(winner, Real) and not isinstance(winner, bool) and float(winner) in (0.0, 0.5, 1.0):
        by_word = float(winner)
    if by_name is not None and by_word is not None and by_name != by_word:
        raise OutcomeLogError(
            f"winner {winner!r} in row {row} may be the name of a model or say which one won; rename the model"
        )
    share = by_word if by_name is None else by_name
    if share is None:
        raise OutcomeLogError(
            f"winner in row {row} is {winner!r}; it must be 'a', 'b' or 'tie', or one of the two models, {a!r} and {b!r}, or "
            "1, 0.5 or 0 for the first model's share of the win"
        )
    return share
