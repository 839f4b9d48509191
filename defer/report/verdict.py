"""What an evaluation says, in words that do not say more than the intervals do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from defer.evaluation.evaluation import Evaluation

__all__ = ["verdict"]


def verdict(evaluation: Evaluation) -> list[str]:
    """Sentences: value, comparison with the baseline, cost, support.

    Examples
    --------
    >>> import numpy as np
    >>> from defer import OutcomeLog, evaluate
    >>> from defer.estimators import SingleArm
    >>> log = OutcomeLog.from_arrays(np.zeros((3, 1)), [[0.0, 1.0]] * 3, arms=["small", "large"])
    >>> verdict(evaluate(SingleArm().fit(log.X, log.quality), log))[1]
    'It is exactly as good as the baseline "always large" on these queries.'
    """
    estimate, difference = evaluation.estimate, evaluation.difference
    sentences = []
    if estimate.is_refused:
        sentences.append(
            f"This log cannot carry an interval for the routing; the bare estimate of its quality is {estimate.value:.4f}."
        )
    else:
        sentences.append(
            f"On {estimate.n:,} held-out queries the routing has quality {estimate.value:.4f} "
            f"({evaluation.level:.0%} interval {estimate.low:.4f} to {estimate.high:.4f})."
        )
    name = f'the baseline "{evaluation.baseline}"'
    if difference.low == difference.high == 0.0:
        sentences.append(f"It is exactly as good as {name} on these queries.")
    elif difference.low > 0:
        sentences.append(f"It is better than {name} by {difference} in quality: the interval excludes 0.")
    elif difference.high < 0:
        sentences.append(f"It is worse than {name} by {difference} in quality: the interval excludes 0.")
    else:
        sentences.append(f"Its difference to {name} is {difference} in quality: these queries do not tell them apart.")
    arm = evaluation.baseline.removeprefix("always ")
    if arm in evaluation.singles and any(other.outcome == "cost" for other in estimate.others):
        reference, spent = evaluation.singles[arm].cost.value, estimate.cost.value
        if reference > 0 and spent == spent:
            change = spent / reference - 1
            sentences.append(
                f"It costs ${spent:.3g} a query, {abs(change):.0%} {'less' if change <= 0 else 'more'} than that baseline."
            )
    sentences += [f"Caution: {note}." for note in estimate.warnings]
    return sentences
