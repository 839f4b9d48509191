"""What a log holds in a few numbers."""

from __future__ import annotations

import numpy as np
import pytest

from defer import OutcomeLog

NAN = float("nan")


def test_summary_of_a_log_with_gaps():
    log = OutcomeLog.from_arrays(
        ["a", "b", "a", "c"],
        [[1, 0, NAN], [0, 0, NAN], [1, 1, 0.5], [0, 1, NAN]],
        arms=["s", "m", "l"],
        cost=[[1, 2, NAN], [1, 2, NAN], [1, 2, 4], [1, 2, NAN]],
        domain=["x", "y", "x", "x"],
    )
    summary = log.summary()
    assert (summary.n_queries, summary.n_clusters, summary.n_repeated_texts) == (4, 3, 1)
    assert summary.observed.tolist() == [1.0, 1.0, 0.25]
    assert summary.quality.tolist() == [0.5, 0.5, 0.5]
    assert summary.cost.tolist() == [1.0, 2.0, 4.0]
    assert np.isnan(summary.latency).all()
    assert np.isnan(summary.taken).all()
    assert (summary.best_arm, summary.best_quality) == ("s", 0.5)
    assert summary.oracle_quality == 0.75
    assert np.isnan([summary.smallest_propensity, summary.effective_sample_size]).all()
    assert summary.domains == {"x": 3, "y": 1}
    assert str(summary).splitlines()[0] == "4 queries, 3 arms, 2 domains"
    assert str(summary).splitlines()[-1] == "best single arm s: 0.5000; best arm of every query: 0.7500"


def test_best_arm_of_equal_means_is_the_cheaper_one():
    quality = [[1.0, 1.0, 0.0]]
    assert OutcomeLog.from_arrays(None, quality, cost=[[2.0, 1.0, 0.0]]).summary().best_arm == "arm_1"
    assert OutcomeLog.from_arrays(None, quality, cost=[[2.0, NAN, 0.0]]).summary().best_arm == "arm_0"
    assert OutcomeLog.from_arrays(None, quality).summary().best_arm == "arm_0"


def test_summary_of_a_bandit_log_describes_the_decisions():
    log = OutcomeLog.from_arrays(
        None, [[1, NAN], [NAN, 0], [0, NAN]], action=[0, 1, 0], propensity=[0.5, 0.25, 0.5], cluster=["u", "u", "v"]
    )
    summary = log.summary()
    assert summary.taken == pytest.approx([2 / 3, 1 / 3])
    assert summary.smallest_propensity == 0.25
    assert summary.effective_sample_size == pytest.approx(8**2 / (4 + 16 + 4))
    assert summary.n_clusters == 2


def test_frame_has_a_row_an_arm(full_log):
    frame = full_log.summary().frame
    assert frame.columns == ["arm", "observed", "quality", "cost_usd", "latency_s", "taken"]
    assert frame["arm"].to_list() == list(full_log.arms)
    assert frame["quality"].to_list() == pytest.approx(np.asarray(full_log.quality).mean(axis=0).tolist())
