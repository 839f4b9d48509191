"""Sums that update and merge: batches give what the whole gives."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.evaluation import RunningValue, estimate_value
from defer.evaluation.estimators import ESTIMATORS
from defer.exceptions import EvaluationError


def rounds(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.exponential(size=n),
        "outcome": rng.random(n),
        "predicted": rng.random(n),
        "expected": rng.random(n),
    }


def part(columns, rows):
    return {name: values[rows] for name, values in columns.items()}


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("clustered", [False, True])
@settings(max_examples=15, deadline=None)
@given(cut=st.lists(st.integers(0, 200), min_size=1, max_size=4), seed=st.integers(0, 100))
def test_batches_and_merged_parts_give_the_result_of_the_whole(name, clustered, cut, seed):
    columns = rounds(200, seed)
    cluster = np.arange(200) // 3 if clustered else None
    whole = RunningValue(name)
    whole.update(**columns, cluster=cluster)
    bounds = [0, *sorted(cut), 200]
    pieces = [slice(low, high) for low, high in pairwise(bounds)]
    streamed, merged = RunningValue(name), RunningValue(name)
    for rows in pieces:
        own = None if cluster is None else cluster[rows]
        streamed.update(**part(columns, rows), cluster=own)
        piece = RunningValue(name)
        piece.update(**part(columns, rows), cluster=own)
        merged.merge(piece)
    expected = whole.result()
    for other in (streamed.result(), merged.result()):
        for field in ("value", "low", "high", "ess", "max_weight"):
            assert getattr(other, field) == pytest.approx(getattr(expected, field), rel=1e-9, nan_ok=True)
        assert other.n == 200


@pytest.mark.parametrize("name", ["ips", "dr", "snips"])
def test_a_file_read_in_batches_gives_what_the_log_in_memory_gives(name, bandit_log, tmp_path):
    path = tmp_path / "log.parquet"
    bandit_log.to_parquet(path)
    policy = np.array([0.2, 0.3, 0.5])
    model = np.array([0.5, 0.6, 0.8])
    place = {arm: index for index, arm in enumerate(bandit_log.arms)}
    value = RunningValue(name)
    for batch in pq.ParquetFile(path).iter_batches(batch_size=37):
        frame = batch.to_pydict()
        action = np.array([place[arm] for arm in frame["action"]])
        outcome = np.array([frame[f"score:{bandit_log.arms[arm]}"][row] for row, arm in enumerate(action)])
        value.update(
            policy[action] / np.array(frame["propensity"]), outcome,
            predicted=model[action], expected=np.full(len(action), policy @ model),
        )  # fmt: skip
    whole = estimate_value(
        np.tile(policy, (200, 1)), bandit_log, estimator=name, quality_model=np.tile(model, (200, 1))
    )
    streamed = value.result()
    assert (streamed.value, streamed.low, streamed.high) == pytest.approx(
        (whole.value, whole.low, whole.high), rel=1e-9
    )


def test_bootstrap_replicates_merge_and_agree_with_the_normal_interval():
    columns = rounds(4000)
    left, right = (RunningValue("dr", n_bootstrap=400, seed=seed) for seed in (1, 2))
    left.update(**part(columns, slice(0, 1500)))
    right.update(**part(columns, slice(1500, None)))
    left.merge(right)
    bootstrap, normal = left.result(interval="bootstrap"), left.result()
    assert bootstrap.value == normal.value
    assert bootstrap.high - bootstrap.low == pytest.approx(normal.high - normal.low, rel=0.2)


def test_parts_of_different_estimators_are_not_merged():
    with pytest.raises(EvaluationError, match=r"parts of different estimators cannot be merged: IPS\(\), DR\(\)"):
        RunningValue("ips").merge(RunningValue("dr"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": np.array([0.1, np.nan, np.inf])}, "outcome has 2 values that are not finite, the first in row 1"),
        ({"weight": np.array([1.0, 1.0, -0.5])}, "weight has 1 values below 0, the first in row 2"),
        ({"predicted": np.zeros(2)}, r"predicted must have shape \(3,\) like weight, got \(2,\)"),
    ],
)
def test_wrong_rounds_are_refused(change, message):
    with pytest.raises(EvaluationError, match=message):
        RunningValue("dr").update(**{**rounds(3), **change})


def test_no_rounds_give_no_result():
    value = RunningValue("ips")
    value.update([], [])
    with pytest.raises(EvaluationError, match="there are no rounds yet"):
        value.result()


def test_a_reason_to_refuse_travels_with_the_value():
    value = RunningValue("ips")
    value.update(**rounds(500))
    refused = value.result(refuse="arms are missing")
    assert refused.is_refused
    assert refused.value == value.result().value
    assert refused.warnings == ("no interval: arms are missing",)
