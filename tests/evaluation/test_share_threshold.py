"""Calibration of a threshold to a share of strong calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defer.evaluation.share_threshold import calibrate_share
from defer.exceptions import EvaluationError


@given(
    score=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    share=st.floats(0, 1),
    rounding=st.sampled_from(["down", "up", "nearest"]),
)
def test_it_takes_the_reachable_share_that_was_asked_for(score: list[int], share: float, rounding: str) -> None:
    values = np.array(score) / 6.0
    reachable = np.array([0.0, *sorted({float((values >= value).mean()) for value in values})])
    found = calibrate_share(values, share, rounding=rounding)  # type: ignore[arg-type]
    assert found.below == pytest.approx(reachable[reachable <= share + 1e-12].max())
    assert found.above == pytest.approx(reachable[reachable >= share - 1e-12].min())
    assert found.share == pytest.approx(found.is_strong(values).mean())
    wanted = {"down": found.below, "up": found.above}
    near = found.above if found.above - share < share - found.below - 1e-12 else found.below
    assert found.share == pytest.approx(wanted.get(rounding, near))


def test_without_ties_it_is_the_quantile() -> None:
    score = np.random.default_rng(0).random(1000)
    for share in (0.0, 0.1, 0.5, 1.0):
        found = calibrate_share(score, share)
        assert found.share == found.below == found.above == pytest.approx(share)
        if share:
            assert found.threshold == pytest.approx(np.quantile(score, 1 - share, method="higher"), abs=2e-3)


def test_errors() -> None:
    with pytest.raises(EvaluationError, match="rounding must be 'down', 'up' or 'nearest', got 'off'"):
        calibrate_share([0.1], 0.5, rounding="off")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match=r"share must be in \[0, 1\], got 1.5"):
        calibrate_share([0.1], 1.5)
    with pytest.raises(EvaluationError, match="not finite"):
        calibrate_share([np.nan], 0.5)
