"""Every value estimator against its formula's consequences: spans, gradients, ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.evaluation.estimators import (
    DR,
    DR_OS,
    DR_PS,
    ESTIMATORS,
    IPS,
    SNDR,
    SNIPS,
    ClippedIPS,
    Replay,
    Rounds,
    Switch,
    as_estimator,
)
from defer.exceptions import EvaluationError

EVERY = [kind() for kind in ESTIMATORS.values()]
BOUNDED = [
    *(estimator for estimator in EVERY if not estimator.is_ratio),
    ClippedIPS(1.5), DR_PS(1.5), DR_OS(0.5), DR_OS(4.0), DR_OS(0.0), DR_OS(np.inf), Switch(1.5),
]  # fmt: skip


def draw(seed, *, n=40, largest=6.0, low=0.0, high=1.0):
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random(n) < 0.3, rng.choice([0.0, largest], size=n), rng.uniform(0, largest, size=n))
    # Ends of the range are where a span is too short.
    ends = rng.choice([low, high], size=(3, n))
    return Rounds(weight, *np.where(rng.random((3, n)) < 0.5, ends, rng.uniform(low, high, size=(3, n))))


def constant_weight(rounds):
    return Rounds((rounds.weight > 3.0) * 2.5, rounds.outcome, rounds.predicted, rounds.expected)


@pytest.mark.parametrize("estimator", BOUNDED, ids=repr)
@given(seed=st.integers(0, 2**32 - 1), low=st.floats(-3, 3), width=st.floats(0, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_span_holds_every_term(estimator, seed, low, width):
    rounds = draw(seed, low=low, high=low + width)
    terms = estimator.terms(rounds)
    assert terms.shape == (40, 1)
    assert np.ptp(terms) <= estimator.span(6.0, low, low + width) + 1e-9


@pytest.mark.parametrize(
    ("estimator", "rounds", "span"),
    [
        (IPS(), [(4.0, 1.0, 0, 0), (4.0, -1.0, 0, 0)], 8.0),
        (ClippedIPS(2.0), [(4.0, 1.0, 0, 0), (4.0, -1.0, 0, 0)], 4.0),
        (DR(), [(4.0, 1.0, -1.0, 1.0), (4.0, -1.0, 1.0, -1.0)], 18.0),
        (DR_PS(2.0), [(4.0, 1.0, -1.0, 1.0), (4.0, -1.0, 1.0, -1.0)], 10.0),
        (Switch(3.0), [(3.0, 1.0, -1.0, 1.0), (3.0, -1.0, 1.0, -1.0)], 14.0),
        (DR_OS(4.0), [(2.0, 1.0, -1.0, 1.0), (2.0, -1.0, 1.0, -1.0)], 6.0),
        (ESTIMATORS["dm"](), [(4.0, 0, 0, 1.0), (4.0, 0, 0, -1.0)], 2.0),
    ],
    ids=lambda item: repr(item) if not isinstance(item, list) else "",
)
def test_span_is_reached(estimator, rounds, span):
    assert estimator.span(4.0, -1.0, 1.0) == pytest.approx(span)
    terms = estimator.terms(Rounds(*np.array(rounds, dtype=float).T))
    assert np.ptp(terms) == pytest.approx(span)


@pytest.mark.parametrize("estimator", EVERY, ids=repr)
def test_gradient_is_the_derivative_of_the_value(estimator):
    rounds = constant_weight(draw(0)) if isinstance(estimator, Replay) else draw(0)
    mean, step = estimator.terms(rounds).mean(axis=0), 1e-6
    slopes = [
        (estimator.value(mean + step * unit) - estimator.value(mean - step * unit)) / (2 * step)
        for unit in np.eye(estimator.k)
    ]
    np.testing.assert_allclose(estimator.gradient(mean), slopes, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("estimator", EVERY, ids=repr)
def test_terms_leave_their_input_alone(estimator):
    rounds, again = (constant_weight(draw(3)) for _ in range(2))
    estimator.terms(rounds)
    for name in ("weight", "outcome", "predicted", "expected"):
        np.testing.assert_array_equal(getattr(rounds, name), getattr(again, name))


@pytest.mark.parametrize("estimator", [e for e in EVERY if e.is_ratio], ids=repr)
def test_ratios_of_rounds_without_weight_are_nan_and_have_no_span(estimator):
    mean = estimator.terms(Rounds(np.zeros(3), np.ones(3), np.ones(3), np.ones(3))).mean(axis=0)
    assert np.isnan(estimator.value(mean))
    assert np.isnan(estimator.gradient(mean)).all()
    with pytest.raises(EvaluationError, match=f"needs bounded terms, and {estimator.name} is a ratio"):
        estimator.span(1.0, 0.0, 1.0)


def test_switch_keeps_a_weight_equal_to_its_threshold_whatever_its_last_bit():
    for weight in (0.8 / 0.25, 3.2, 0.32 / 0.1):
        assert Switch(3.2).changed(np.array([weight])) == pytest.approx(3.2)
    assert Switch(3.2).changed(np.array([3.2001])) == 0.0


def test_optimistic_shrinkage_rises_to_the_root_of_its_parameter_and_falls_beyond():
    weight = np.linspace(0, 50, 2001)
    shrunk = DR_OS(9.0).changed(weight)
    np.testing.assert_allclose(shrunk, 9.0 * weight / (weight**2 + 9.0))
    assert weight[shrunk.argmax()] == pytest.approx(3.0)
    assert DR_OS(9.0).largest(50.0) == pytest.approx(shrunk.max())
    assert DR_OS(9.0).largest(2.0) == pytest.approx(18.0 / 13.0)


def test_replay_is_snips_where_all_used_weights_are_equal():
    rounds = constant_weight(draw(1))
    replay, snips = (e.value(e.terms(rounds).mean(axis=0)) for e in (Replay(), SNIPS()))
    assert replay == pytest.approx(snips)
    assert replay == pytest.approx(rounds.outcome[rounds.weight > 0].mean())


def test_sndr_equals_its_formula():
    rounds = draw(7)
    residual = rounds.weight * (rounds.outcome - rounds.predicted)
    expected = rounds.expected.mean() + residual.sum() / rounds.weight.sum()
    assert SNDR().value(SNDR().terms(rounds).mean(axis=0)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(ClippedIPS, "max_weight"), (DR_PS, "max_weight"), (DR_OS, "shrinkage"), (Switch, "threshold")],
)
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_parameters_below_zero_are_refused(kind, name, value):
    with pytest.raises(EvaluationError, match=f"{kind.__name__} needs {name} >= 0, got {value}"):
        kind(value)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(EvaluationError, match=r"one of \['clipped', 'dm', .*\] or an estimator object, got 'ipw'"):
        as_estimator("ipw")
    assert as_estimator("dros") == DR_OS()
    assert as_estimator(Switch(2.0)) == Switch(2.0)
