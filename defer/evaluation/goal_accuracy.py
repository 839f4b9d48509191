"""Joint goal accuracy of dialogues: turns on which everything is right, by themselves or with the state that errors stay in.

Source: as OrchestraLLM reports it (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758), per turn (TLB) and per state (DST).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.dialogue import DELETED, update_state
from defer.exceptions import EvaluationError

__all__ = ["goal_hits", "joint_goal_accuracy"]

Beliefs = Sequence[Mapping[str, Any]]


def joint_goal_accuracy(
    predicted: Beliefs, gold: Beliefs, dialogue: Sequence[Hashable], *, propagate: bool = True, deleted: Any = DELETED
) -> float:
    """Share of turns on which every slot is right.

    Parameters
    ----------
    predicted, gold : sequences of n mappings from slot to value
        What every turn says, by the experts that were asked and in truth.
    dialogue : sequence of length n
        Which dialogue each turn belongs to; its turns stand in their order, and need not stand together.
    propagate : bool, default=True
        Compare the states that all turns so far have left, in which an error stays until a later turn overwrites it; False
        compares every turn by itself.
    deleted : object, default="[DELETE]"
        As for `update_state`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    EvaluationError
        If lengths differ or are 0, or an entry is no mapping.

    Notes
    -----
    With propagation it is at most the accuracy per turn where no error is mended: a state can be right after a wrong turn
    when a later turn overwrites the slot, or says again what was missed.

    Examples
    --------
    >>> gold = [{"area": "north"}, {"food": "thai"}, {"stars": "4"}]
    >>> predicted = [{"area": "south"}, {"food": "thai"}, {"stars": "4"}]
    >>> round(joint_goal_accuracy(predicted, gold, [1, 1, 1], propagate=False), 4)
    0.6667
    >>> joint_goal_accuracy(predicted, gold, [1, 1, 1])
    0.0
    """
    return float(goal_hits(predicted, gold, dialogue, propagate=propagate, deleted=deleted).mean())


def goal_hits(
    predicted: Beliefs, gold: Beliefs, dialogue: Sequence[Hashable], *, propagate: bool = True, deleted: Any = DELETED
) -> NDArray[np.bool_]:
    """Whether every slot of a turn, or of the state after it, is right, shape (n,); see `joint_goal_accuracy`.

    Parameters
    ----------
    predicted, gold, dialogue, propagate, deleted
        As for `joint_goal_accuracy`.

    Returns
    -------
    bool array of shape (n,)

    Raises
    ------
    EvaluationError
        If lengths differ or are 0, or an entry is no mapping.

    Examples
    --------
    >>> goal_hits([{"food": "thai"}, {}], [{"food": "thai"}, {"area": "north"}], [1, 2]).tolist()
    [True, False]
    """
    _check_turns(predicted, gold, dialogue)
    if not propagate:
        return np.array([dict(ours) == dict(truth) for ours, truth in zip(predicted, gold, strict=True)])
    states: dict[Hashable, tuple[dict[str, Any], dict[str, Any]]] = {}
    hits = []
    for ours, truth, name in zip(predicted, gold, dialogue, strict=True):
        before, truly_before = states.get(name, ({}, {}))
        after = update_state(before, ours, deleted=deleted), update_state(truly_before, truth, deleted=deleted)
        states[name] = after
        hits.append(after[0] == after[1])
    return np.array(hits)


def _check_turns(predicted: Beliefs, gold: Beliefs, dialogue: Sequence[Hashable]) -> None:
    if not len(gold) or len(predicted) != len(gold) or len(dialogue) != len(gold):
        raise EvaluationError(
            f"predicted, gold and dialogue need one entry per turn and at least one turn, got {len(predicted)}, {len(gold)} and "
            f"{len(dialogue)}"
        )
    for name, beliefs in (("predicted", predicted), ("gold", gold)):
        wrong = [row for row, belief in enumerate(beliefs) if not isinstance(belief, Mapping)]
        if wrong:
            raise EvaluationError(
                f"{name} must hold mappings from slot to value, and {len(wrong)} of {len(beliefs)} entries are none, the first in "
                f"row {wrong[0]} ({beliefs[wrong[0]]!r})"
            )
