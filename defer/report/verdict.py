"""What an evaluation says, in words that do not say more than the intervals do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from defer.evaluation.result import Evaluation

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
            f"On {estimate.n:,} {'held-out ' if evaluation.n_leaked == 0 else ''}queries the routing has quality {estimate.value:.4f} "
            f"({evaluation.level:.0%} interval {estimate.low:.4f} to {estimate.high:.4f})."
        )
    name = f'the baseline "{evaluation.baseline}"'
    if not (difference.low == difference.low and difference.high == difference.high):
        sentences.append(f"How it compares with {name} cannot be told from this log.")
    elif difference.low == difference.high == 0.0:
        sentences.append(f"It is exactly as good as {name} on these queries.")
    elif difference.low == difference.high:
        sentences.append(
            f"It differs from {name} by {difference.value:.4g} on all of these queries alike, which carries no interval."
        )
    elif difference.low > 0:
        sentences.append(f"It is better than {name} by {difference} in quality: the interval excludes 0.")
    elif difference.high < 0:
        sentences.append(f"It is worse than {name} by {difference} in quality: the interval excludes 0.")
    else:
        sentences.append(f"Its difference to {name} is {difference} in quality: these queries do not tell them apart.")
    if evaluation.is_hindsight:
        sentences.append("That baseline was chosen as the best arm on these very queries, which favours it.")
    extra = evaluation.cost_difference
    if extra is not None and extra.low == extra.low:
        spent = estimate.cost.value
        reference = spent - extra.value
        if reference > 0:
            share, word = abs(spent / reference - 1), "less" if spent <= reference else "more"
            doubt = "" if extra.low > 0 or extra.high < 0 else "; the interval of that includes 0"
            change = "as much as" if extra.value == 0 else f"{share:.0%} {word} than"
            sentences.append(
                f"It costs ${spent:.3g} a query, {change} that baseline{'' if extra.value == 0 else doubt}."
            )
    if evaluation.n_leaked:
        sentences.append(
            f"Caution: {evaluation.n_leaked:,} of these queries were also in training; the numbers flatter the router."
        )
    sentences += [f"Caution: {note}." for note in estimate.warnings]
    return sentences
