"""The single-stage surrogates by name, with what is proved about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from defer.losses.readout import Readout, asymmetric_softmax_readout, ova_readout, softmax_readout
from defer.losses.single_stage import (
    asymmetric_softmax_deferral,
    cost_sensitive_deferral,
    ova_deferral,
    realizable_deferral,
    rl2d_deferral,
    softmax_deferral,
)
from defer.losses.value import LossValue

__all__ = ["SURROGATES", "Surrogate"]


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A single-stage surrogate and what is known about it.

    Of the three kinds of consistency True means proved in the source, False refuted (by the source or by a witness in the
    tests), None neither, as far as we know.

    Parameters
    ----------
    name : str
        Key in `SURROGATES`.
    loss : callable
        ``loss(scores, cost, *, n_experts, weight)`` gives a `LossValue`; further options are those of the function.
    multi_expert : bool
        Whether more than one expert is possible.
    convex : bool
        Convex in the scores.
    bayes_consistent : bool or None
        Minimising it over all scores minimises the deferral loss, also for a random expert.
    h_consistent : bool or None
        With a bound within a symmetric and complete set of scores.  None: not derived here, whatever the source states.
    realizable_consistent : bool or None
        Where a set of scores that is closed under scaling reaches zero deferral loss, minimising the surrogate does too.
    readout : callable or None
        ``readout(scores, *, n_experts)`` gives a `Readout` of probabilities.
    source : str
        Where it comes from.
    note : str
        What a quick reading gets wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from defer.losses import deferral_cost
    >>> ova = SURROGATES["ova"]
    >>> ova.loss(np.zeros((1, 3)), deferral_cost([0], [1.0], n_classes=2), n_experts=1).value
    array([2.07944154])
    >>> [name for name, surrogate in SURROGATES.items() if surrogate.bayes_consistent]
    ['softmax', 'ova', 'asymmetric_softmax', 'cost_sensitive']
    """

    name: str
    loss: Callable[..., LossValue]
    multi_expert: bool
    convex: bool
    bayes_consistent: bool | None
    h_consistent: bool | None
    realizable_consistent: bool | None
    readout: Callable[..., Readout] | None
    source: str
    note: str


SURROGATES: dict[str, Surrogate] = {
    surrogate.name: surrogate
    for surrogate in (
        Surrogate(
            name="softmax",
            loss=softmax_deferral,
            multi_expert=True,
            convex=True,
            bayes_consistent=True,
            h_consistent=None,
            realizable_consistent=False,
            readout=softmax_readout,
            source="Mozannar and Sontag 2020; Mao, Mohri, Zhong 2023",
            note="The experts' probabilities are coupled and can exceed 1.",
        ),
        Surrogate(
            name="softmax_alpha",
            loss=partial(softmax_deferral, alpha=0.5),
            multi_expert=False,
            convex=True,
            bayes_consistent=False,
            h_consistent=False,
            realizable_consistent=None,
            readout=None,
            source="Mozannar and Sontag 2020",
            note="alpha = 0.5 unless given; for every alpha below 1 it defers too much.",
        ),
        Surrogate(
            name="ova",
            loss=ova_deferral,
            multi_expert=True,
            convex=True,
            bayes_consistent=True,
            h_consistent=None,
            realizable_consistent=False,
            readout=ova_readout,
            source="Verma and Nalisnick 2022; Verma, Barrejon, Nalisnick 2023",
            note="Class probabilities need not sum to 1.",
        ),
        Surrogate(
            name="asymmetric_softmax",
            loss=asymmetric_softmax_deferral,
            multi_expert=False,
            convex=False,
            bayes_consistent=True,
            h_consistent=None,
            realizable_consistent=None,
            readout=asymmetric_softmax_readout,
            source="Cao et al. 2023",
            note="Not smooth where two classes tie for the maximum.",
        ),
        Surrogate(
            name="realizable",
            loss=realizable_deferral,
            multi_expert=False,
            convex=False,
            bayes_consistent=False,
            h_consistent=False,
            realizable_consistent=True,
            readout=None,
            source="Mozannar et al. 2023",
            note="For mix = 1. Not consistent for a random expert: eta = (.5, .5) with one right at .6 on both classes is predicted.",
        ),
        Surrogate(
            name="rl2d",
            loss=rl2d_deferral,
            multi_expert=False,
            convex=False,
            bayes_consistent=False,
            h_consistent=None,
            realizable_consistent=True,
            readout=None,
            source="Mao, Mohri, Zhong 2024",
            note="q = 0.7 unless given. q = 1 is consistent but has plateaus; every q < 1 predicts where the Bayes rule defers by little.",
        ),
        Surrogate(
            name="cost_sensitive",
            loss=cost_sensitive_deferral,
            multi_expert=True,
            convex=True,
            bayes_consistent=True,
            h_consistent=None,
            realizable_consistent=False,
            readout=None,
            source="Charusaie et al. 2022",
            note="A cost of asking smooths the labels, and finite samples underfit.",
        ),
    )
}
