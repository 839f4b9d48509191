"""Limits are small frozen values with one meaning each."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from defer import Budget, Capacity, QualityTarget, RiskLevel, Share
from defer.exceptions import RouterInputError

LIMITS = [
    Budget(mean_cost=0.0004),
    QualityTarget(0.9),
    Share("large", at_most=0.2, at_least=0.1),
    Capacity({"reviewer": 40, "model": 0}),
    RiskLevel(risk=0.02, level=0.9),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: type(limit).__name__)
def test_limits_compare_hash_copy_pickle_and_print_as_code(limit):
    for twin in (copy.copy(limit), copy.deepcopy(limit), pickle.loads(pickle.dumps(limit)), eval(repr(limit))):
        assert twin == limit
        assert hash(twin) == hash(limit)
    assert sum(limit == other for other in LIMITS) == 1


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: type(limit).__name__)
def test_limits_are_frozen(limit):
    field = next(iter(vars(limit)))
    with pytest.raises(AttributeError):
        setattr(limit, field, 1)
    with pytest.raises(TypeError):
        Capacity({"reviewer": 40}).count["reviewer"] = 3


def test_numbers_of_numpy_become_plain_ones_and_order_of_capacities_does_not_matter():
    assert type(Budget(np.float32(0.5)).mean_cost) is float
    assert type(Capacity({"a": np.int64(3)}).count["a"]) is int
    one, other = Capacity({"a": 1, "b": 2}), Capacity({"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", None, True, np.array([1.0]), 1j])
def test_budget_must_be_a_finite_number_that_is_not_negative(value):
    with pytest.raises(RouterInputError, match=r"Budget: mean_cost must be a finite number in \[0, inf\), got"):
        Budget(mean_cost=value)


@pytest.mark.parametrize("value", [math.nan, -math.inf, "high"])
def test_quality_target_must_be_finite(value):
    with pytest.raises(RouterInputError, match="QualityTarget: mean_quality must be a finite number"):
        QualityTarget(value)
    assert QualityTarget(-3).mean_quality == -3.0


@pytest.mark.parametrize(("name", "value"), [("at_most", 1.1), ("at_least", -0.1), ("at_most", math.nan)])
def test_share_must_be_in_the_unit_interval(name, value):
    with pytest.raises(RouterInputError, match=rf"Share: {name} must be a finite number in \[0, 1\], got {value}"):
        Share("large", **{name: value})


def test_share_must_leave_room():
    with pytest.raises(RouterInputError, match=r"Share: at_least \(0.5\) must not exceed at_most \(0.2\)"):
        Share("large", at_most=0.2, at_least=0.5)


@pytest.mark.parametrize("count", [-1, 1.5, "3", None, True, math.nan])
def test_capacity_counts_are_whole_and_not_negative(count):
    with pytest.raises(RouterInputError, match="Capacity: the count of arm 'reviewer' must be an integer >= 0, got"):
        Capacity({"reviewer": count})


def test_capacity_is_a_mapping():
    with pytest.raises(RouterInputError, match="Capacity: count must map arms to integers, got 3"):
        Capacity(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": -0.1}, r"RiskLevel: risk must be a finite number in \[0, inf\)"),
        ({"risk": 0.1, "level": 0.0}, r"RiskLevel: level must be a finite number in \(0, 1\]"),
        ({"risk": 0.1, "level": 1.0}, "RiskLevel: level must be below 1"),
    ],
)
def test_risk_level_needs_a_risk_and_a_confidence(options, message):
    with pytest.raises(RouterInputError, match=message):
        RiskLevel(**options)
