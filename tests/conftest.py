"""Shared instances of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from defer import OutcomeLog

# The same examples in every run: a failure is one that can be repeated.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.load_profile("fixed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared real logs; tests that need it are skipped where it is not there."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data are not beside this checkout")
    return folder


@pytest.fixture
def full_log() -> OutcomeLog:
    """200 queries in two domains, three arms with cost and latency; the dear arm is the best but not everywhere."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=200)
    chance = np.array([[0.3, 0.8, 0.85], [0.7, 0.4, 0.8]])[kind]
    return OutcomeLog.from_arrays(
        np.column_stack([kind, rng.normal(size=200)]).astype(float),
        (rng.random((200, 3)) < chance).astype(float),
        arms=["small", "medium", "large"],
        cost=np.array([0.001, 0.004, 0.02]) * rng.uniform(0.5, 1.5, size=(200, 3)),
        latency=rng.uniform(0.1, 1.0, size=(200, 3)),
        domain=np.array(["code", "prose"])[kind],
        query_id=np.arange(200),
    )


@pytest.fixture
def bandit_log(full_log: OutcomeLog) -> OutcomeLog:
    """What a logging policy with known propensities would have left of `full_log`."""
    return full_log.with_action(np.tile([0.5, 0.3, 0.2], (len(full_log), 1)), seed=1)
