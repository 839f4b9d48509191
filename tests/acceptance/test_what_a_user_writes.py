"""The example of the plan, line by line, on a Parquet file of outcomes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    rng = np.random.default_rng(0)
    is_hard = rng.random(300) < 0.5
    words = [
        f"{'prove' if hard else 'add'} {a} and {b}"
        for hard, a, b in zip(is_hard, *rng.integers(100, size=(2, 300)), strict=True)
    ]
    table = {
        "prompt": words,
        "domain": np.where(is_hard, "proofs", "sums"),
        "score:small": (rng.random(300) < np.where(is_hard, 0.2, 0.9)).astype(float),
        "score:large": (rng.random(300) < 0.9).astype(float),
        "cost_usd:small": np.full(300, 0.0001),
        "cost_usd:large": np.full(300, 0.001),
    }
    pq.write_table(pa.table(table), "outcomes.parquet")

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    import defer
    from defer import Arm, Budget, Capacity, OutcomeLog, Portfolio, Price, QualityTarget, RiskLevel, Share
    from defer.estimators import QualityRouter, TunedRouter, TwoStageDeferral

    log = OutcomeLog.read_parquet("outcomes.parquet", text="prompt")
    train, test = log.split(test_size=0.3, seed=0)
    router = defer.make_pipeline(TfidfVectorizer(), QualityRouter(Ridge()))
    router.fit(train.X, train.quality, cost=train.cost)
    routing = router.route(test.X, limit=Budget(mean_cost=0.0004))
    assert [
        len(part) for part in (routing.arm, routing.propensity, routing.fallbacks, routing.quality, routing.cost)
    ] == [90] * 5
    assert routing.expected_cost <= 0.0004
    deferral = defer.make_pipeline(TfidfVectorizer(), TwoStageDeferral()).fit(train.X, train.quality)
    assert deferral.route(test.X, limit=Share("large", at_most=0.3)).load[1] <= 0.3
    evaluation = defer.evaluate(router, test)
    evaluation.to_html("report.html")
    assert evaluation.frame["policy"].to_list() == ["routing", "small", "large", "oracle"]
    assert evaluation.log_to_mlflow()
    defer.save(router, "policy")
    loaded = defer.load("policy")
    assert loaded.predict(test.X).tolist() == router.predict(test.X).tolist()
    assert {Arm, Price, Portfolio, Capacity, Share, QualityTarget, RiskLevel, TunedRouter}
