"""Write the policy that every later release must load: ``python tests/data/make_policy.py``, once a minor version.

The folder `policy-X.Y` is committed and never written again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from defer import Budget, OutcomeLog, __version__, make_pipeline, save
from defer.estimators import QualityRouter, TunedRouter

QUERIES = ["add 3 and 4", "spell the word tree", "add 12 and 30", "spell the word river backwards", "something else"]


def small_text_log() -> OutcomeLog:
    """120 queries of two kinds; each of two cheap arms is good at one kind, the dear arm at both."""
    rng = np.random.default_rng(0)
    words = ["tree", "river", "stone", "house"]
    kind = rng.integers(2, size=120)
    numbers = rng.integers(1, 50, size=(120, 2))
    texts = [
        f"add {a} and {b}" if k else f"spell the word {words[a % 4]}" for k, (a, b) in zip(kind, numbers, strict=True)
    ]
    chance = np.array([[0.2, 0.8, 0.9], [0.8, 0.2, 0.9]])[kind]
    return OutcomeLog.from_arrays(
        texts,
        (rng.random((120, 3)) < chance).astype(float),
        arms=["numbers", "words", "large"],
        cost=np.array([0.001, 0.001, 0.01]) * rng.uniform(0.5, 1.5, size=(120, 3)),
    )


def main() -> None:
    """Fit, save, and write down what the policy says of a few queries."""
    log = small_text_log()
    router = make_pipeline(
        TfidfVectorizer(), TunedRouter(QualityRouter(Ridge(), Ridge()), limit=Budget(mean_cost=0.004))
    )
    router.fit(log.X, log.quality, cost=log.cost)
    folder = Path(__file__).parent / f"policy-{'.'.join(__version__.split('.')[:2])}"
    save(router, folder, log=log, queries={"text": "prompt"}, metrics={"out_of_fold": 0.5})
    expected = {
        "queries": QUERIES,
        "quality": router.predict_quality(QUERIES).tolist(),
        "cost": router.predict_cost(QUERIES).tolist(),
        "arm": router.predict(QUERIES).tolist(),
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
