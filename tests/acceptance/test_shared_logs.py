"""Every shared data set is read by one call, and the numbers that its description derives come out.

The expected numbers are the "Derived check" lines of the description that lies beside the data.
"""

from __future__ import annotations

import numpy as np
import pytest

from defer import OutcomeLog
from defer.portfolios.splitting import query_groups

GPT4, MIXTRAL = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"

# How each file is read: its path, the options of the one call, then queries and arms.
READ = {
    "routellm-mmlu": ("routellm/mmlu.parquet", {"text": "prompt"}, 9819, 2),
    "routellm-gsm8k": ("routellm/gsm8k.parquet", {"text": "prompt"}, 1319, 2),
    # Routing happens on the first turn, so its marks are the quality; the second turn is read with "score_turn2:".
    "routellm-mt_bench": (
        "routellm/mt_bench.parquet",
        {"text": "prompt", "columns": {"quality": "score_turn1:", "domain": "category"}},
        80,
        2,
    ),
    "routerbench_subset": (
        "routerbench_subset/routerbench_subset.parquet",
        {"text": "prompt", "columns": {"domain": "task"}},
        2205,
        11,
    ),
    "bfcl": (
        "bfcl/outcomes.parquet",
        {"text": "question", "columns": {"arm": "model", "quality": "valid", "domain": "category"}, "queries": "bfcl/queries.parquet"},
        1184,
        71,
    ),
    "routerarena": ("routerarena/routerarena_sub10.parquet", {"text": "prompt", "columns": {"domain": "task"}}, 809, 2),
    "llmdrift": ("llmdrift/llmdrift.parquet", {"text": "prompt", "columns": {"arm": "model", "domain": "task"}}, 1550, 4),
    "open_llm_leaderboard_v2": (
        "open_llm_leaderboard_v2/outcomes.parquet",
        {"columns": {"domain": "scenario"}},
        19315,
        19,
    ),
    **{
        f"open_bandit-{name}": (
            f"open_bandit/{name}.parquet",
            {
                "features": ["position", "user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3"],
                "columns": {
                    "query_id": None,
                    "arm": "item_id",
                    "quality": "click",
                    "propensity": "propensity_score",
                    "time": "timestamp",
                },
            },
            10_000,
            80 if name.startswith("all") else 34,
        )
        for name in ("all_random", "all_bts", "men_random", "men_bts")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def read(shared_data):
    """Reads a shared log by name, once."""
    logs: dict[str, OutcomeLog] = {}

    def log_of(name: str) -> OutcomeLog:
        if name not in logs:
            path, options, _, _ = READ[name]
            if "queries" in options:
                options = options | {"queries": shared_data / options["queries"]}
            logs[name] = OutcomeLog.read_parquet(shared_data / path, **options)
        return logs[name]

    return log_of


def means(log: OutcomeLog, rows=slice(None)) -> dict[str, float]:
    return dict(zip(log.arms, np.nanmean(np.asarray(log.quality)[rows], axis=0).tolist(), strict=True))


@pytest.mark.parametrize("name", READ)
def test_one_call_reads_all_queries_and_arms(read, name):
    log = read(name)
    assert (len(log), len(log.arms)) == READ[name][2:]
    assert log.is_bandit == name.startswith("open_bandit")
    assert (log.X is None) == (name == "open_llm_leaderboard_v2")


@pytest.mark.parametrize("name", [name for name in READ if READ[name][1].get("text")])
def test_texts_clusters_and_a_split_without_leakage(read, name):
    log = read(name)
    assert len(np.unique(query_groups(log))) == len(set(log.X))
    train, test = log.split(0.3, seed=0)
    assert abs(len(test) - 0.3 * len(log)) <= 1
    assert not set(train.X) & set(test.X)


def test_routellm_accuracies(read):
    log = read("routellm-mmlu")
    assert means(log) == pytest.approx({GPT4: 0.8047, MIXTRAL: 0.6786}, abs=5e-5)
    strong, weak = np.asarray(log.quality).T == 1
    shares = [(strong & weak).mean(), (strong & ~weak).mean(), (~strong & weak).mean()]
    assert shares == pytest.approx([0.6266, 0.1780, 0.0519], abs=5e-5)
    assert len(log.summary().domains) == 57
    assert means(read("routellm-gsm8k")) == pytest.approx({GPT4: 0.8567, MIXTRAL: 0.6384}, abs=5e-5)


def test_routellm_gsm8k_without_contaminated_rows(shared_data):
    log = OutcomeLog.read_parquet(
        shared_data / "routellm/gsm8k.parquet", text="prompt", columns={"domain": "contaminated"}
    )
    assert log.domain.dtype == bool
    assert log.domain.sum() == 12
    assert means(log.select(~log.domain)) == pytest.approx({GPT4: 0.8577, MIXTRAL: 0.6373}, abs=5e-5)


def test_mt_bench_has_marks_of_two_turns(shared_data, read):
    strong, weak = GPT4, "mistralai/Mixtral-8x7B-Instruct-v0.1"
    first = read("routellm-mt_bench")
    second = OutcomeLog.read_parquet(
        shared_data / "routellm/mt_bench.parquet", text="prompt", columns={"quality": "score_turn2:"}
    )
    assert first.arms == second.arms == (strong, weak)
    for log in (first, second):
        assert np.asarray(log.quality).min() >= 1
        assert np.asarray(log.quality).max() <= 10
    assert not np.array_equal(first.quality, second.quality)
    assert first.summary().best_arm == second.summary().best_arm == strong


def test_routerbench_accuracy_cost_and_oracle(read):
    summary = read("routerbench_subset").summary()
    found = dict(zip(summary.arms, zip(summary.quality, summary.cost * 1000, strict=True), strict=True))
    expected = {
        "gpt-4-1106-preview": (0.886, 4.999),
        "zero-one-ai/Yi-34B-Chat": (0.777, 0.331),
        "mistralai/mixtral-8x7b-chat": (0.738, 0.249),
        "gpt-3.5-turbo-1106": (0.733, 0.421),
        "claude-v1": (0.725, 3.591),
        "claude-instant-v1": (0.676, 0.365),
        "meta/code-llama-instruct-34b-chat": (0.619, 0.314),
        "meta/llama-2-70b-chat": (0.617, 0.378),
        "mistralai/mistral-7b-chat": (0.580, 0.082),
        "WizardLM/WizardLM-13B-V1.2": (0.558, 0.124),
        "claude-v2": (0.541, 3.785),
    }
    assert found.keys() == expected.keys()
    for arm, numbers in expected.items():
        assert found[arm] == pytest.approx(numbers, abs=5.1e-4), arm
    assert summary.oracle_quality == pytest.approx(0.979, abs=5e-4)


def test_bfcl_best_configuration_oracle_and_quirks(read):
    log = read("bfcl")
    summary, accuracy = log.summary(), means(log)
    assert (summary.best_arm, round(summary.best_quality, 4)) == ("claude-3-5-sonnet-20240620", 0.9054)
    assert summary.oracle_quality == pytest.approx(0.9789, abs=5e-5)
    assert len(summary.domains) == 12
    assert accuracy["NousResearch_Hermes-2-Theta-Llama-3-70B"] == pytest.approx(0.15, abs=5e-3)
    assert np.isfinite(log.latency).any()
    # Models that were served locally have no token counts, so no cost.
    assert np.isnan(np.asarray(log.cost)[:, log.arms.index("Nexusflow-Raven-v2")]).all()


def test_routerarena_has_a_dominant_model(read):
    summary = read("routerarena").summary()
    assert summary.arms == ("claude-3-haiku-20240307", "gemini-2.0-flash-001")
    assert summary.quality == pytest.approx([0.523, 0.690], abs=5e-4)
    assert summary.cost * 1000 == pytest.approx([0.176, 0.047], abs=5e-4)
    assert summary.oracle_quality == pytest.approx(0.741, abs=5e-4)


def test_llmdrift_accuracies_by_task(read):
    log = read("llmdrift")
    arms = ["gpt-4-0314", "gpt-4-0613", "gpt-3.5-turbo-0301", "gpt-3.5-turbo-0613"]
    expected = {
        "prime": [0.840, 0.511, 0.500, 0.761],
        "count_happy_numbers": [0.836, 0.352, 0.306, 0.482],
        "leetcode_easy": [0.52, 0.10, 0.22, 0.02],
    }
    assert set(log.summary().domains) == set(expected)
    for task, accuracies in expected.items():
        found = means(log, log.domain == task)
        assert [found[arm] for arm in arms] == pytest.approx(accuracies, abs=5.1e-4), task
    assert (np.asarray(log.latency) > 0).all()
    assert (np.asarray(log.cost) > 0).all()


def test_leaderboard_is_partial_with_gaps_of_one_model(read):
    log = read("open_llm_leaderboard_v2")
    summary = log.summary()
    assert summary.best_quality == pytest.approx(0.549, abs=5e-4)
    assert summary.oracle_quality == pytest.approx(0.972, abs=5e-4)
    assert len(summary.domains) == 31
    gaps = np.isnan(np.asarray(log.quality))
    solar = log.arms.index("upstage/SOLAR-10.7B-Instruct-v1.0")
    assert gaps[:, solar].tolist() == (log.domain == "mmlu_pro").tolist()
    assert gaps.sum() == gaps[:, solar].sum()
    assert not log.is_full_information


def test_leaderboard_rows_with_texts_are_read_with_them(shared_data):
    import polars as pl

    frame = pl.read_parquet(shared_data / "open_llm_leaderboard_v2/outcomes.parquet").filter(
        pl.col("prompt").is_not_null()
    )
    log = OutcomeLog.from_wide(frame, text="prompt", columns={"domain": "scenario"})
    assert all(name.startswith("bbh") for name in log.summary().domains)
    assert log.is_full_information


@pytest.mark.parametrize(
    ("name", "rate"), [("all_random", 0.0038), ("all_bts", 0.0042), ("men_random", 0.0046), ("men_bts", 0.0069)]
)
def test_open_bandit_click_rates_and_items(read, name, rate):
    log = read(f"open_bandit-{name}")
    assert np.nansum(log.quality) / len(log) == pytest.approx(rate, abs=1e-12)
    assert sorted(int(arm) for arm in log.arms) == list(range(READ[f"open_bandit-{name}"][3]))
    assert (np.isfinite(log.quality).sum(axis=1) == 1).all()
    assert (log.action >= 0).all()
    assert log.propensity.min() > 0
    assert log.time.dtype.kind == "M"
    assert log.X.shape == (10_000, 5)


@pytest.mark.parametrize(
    ("name", "ipw", "snipw", "weight", "largest", "ess"),
    [("all_bts", 0.002360, 0.002334, 1.011, 277.8, 340), ("men_bts", 0.003009, 0.003189, 0.943, 178.3, 656)],
)
def test_open_bandit_weights_of_the_uniform_policy(read, name, ipw, snipw, weight, largest, ess):
    log = read(f"open_bandit-{name}")
    weights = 1 / len(log.arms) / log.propensity
    click = np.asarray(log.quality)[np.arange(len(log)), log.action]
    assert (weights * click).mean() == pytest.approx(ipw, abs=5e-7)
    assert (weights * click).sum() / weights.sum() == pytest.approx(snipw, abs=5e-7)
    assert weights.mean() == pytest.approx(weight, abs=5e-4)
    assert weights.max() == pytest.approx(largest, abs=0.05)
    assert log.summary().effective_sample_size == pytest.approx(ess, abs=0.5)


def test_open_bandit_parts_and_files_keep_all_items(read, tmp_path):
    log = read("open_bandit-all_bts")
    train, test = log.split(0.3, seed=0)
    assert (len(train), len(test)) == (7000, 3000)
    early, late = log.split(0.3, by="time")
    assert early.time.max() < late.time.min()
    log.to_parquet(tmp_path / "log.parquet")
    again = OutcomeLog.read_parquet(tmp_path / "log.parquet")
    assert again.arms == train.arms == late.arms == log.arms
    assert again.action.tolist() == log.action.tolist()
    assert again.propensity.tobytes() == log.propensity.tobytes()
    assert again.X.equals(log.X)
