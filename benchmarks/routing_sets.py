"""The shared routing sets as outcome logs with a cost for every arm.

Each reader says what it had to decide: the cost axis, the text, the arms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from defer import OutcomeLog

__all__ = ["DATA", "SETS", "RoutingSet"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class RoutingSet:
    """A log and how it came about.

    Attributes
    ----------
    title : str
    log : OutcomeLog
        Full information, `cost` in the unit that `unit` names.
    unit : str
    about : str
        What was decided in reading it.
    """

    title: str
    log: OutcomeLog
    unit: str
    about: str

    @property
    def is_share(self) -> bool:
        """Whether the cost axis is the share of calls to the strong arm, so that RouteLLM's metrics apply."""
        return self.unit == "share"


_SHARE = (
    "Cost axis: share of calls to the strong arm, as in the paper; there are no costs per query.  The few prompts that "
    "upstream leaves out as close to its own training data are kept."
)


def mmlu(folder: Path) -> RoutingSet:
    """RouteLLM's MMLU outcomes."""
    log = OutcomeLog.read_parquet(folder / "routellm" / "mmlu.parquet", text="prompt")
    return RoutingSet("RouteLLM, MMLU", _strong_call_cost(log), "share", _SHARE)


def gsm8k(folder: Path) -> RoutingSet:
    """RouteLLM's GSM8K outcomes."""
    log = OutcomeLog.read_parquet(folder / "routellm" / "gsm8k.parquet", text="prompt")
    return RoutingSet("RouteLLM, GSM8K", _strong_call_cost(log), "share", _SHARE)


def mt_bench(folder: Path) -> RoutingSet:
    """RouteLLM's MT-Bench marks, one case a (question, turn)."""
    table = parquet.read_table(folder / "routellm" / "mt_bench.parquet").to_pydict()
    arms = {"gpt-4-1106-preview": "gpt-4-1106-preview", "mixtral-8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1"}
    turns = [np.column_stack([table[f"score_turn{turn}:{name}"] for name in arms.values()]) for turn in (1, 2)]
    log = OutcomeLog.from_arrays(
        table["prompt"] * 2, np.concatenate(turns) / 10.0, arms=list(arms), cluster=table["query_id"] * 2
    )
    about = "One case a (question, turn), routed on the first turn, marks divided by 10; a question is one cluster.  "
    return RoutingSet("RouteLLM, MT-Bench", _strong_call_cost(log), "share", about + _SHARE)


def routerbench(folder: Path) -> RoutingSet:
    """RouterBench's MBPP, ARC and Winogrande outcomes."""
    path = folder / "routerbench_subset" / "routerbench_subset.parquet"
    log = OutcomeLog.read_parquet(path, text="prompt", columns={"domain": "task"})
    return RoutingSet("RouterBench subset", log, "USD", "MBPP, ARC-Challenge and Winogrande; cost per query as logged.")


def bfcl(folder: Path) -> RoutingSet:
    """Function-calling outcomes of all configurations with a cost on every query."""
    outcomes = parquet.read_table(folder / "bfcl" / "outcomes.parquet")
    cost = outcomes.group_by("model").aggregate([("cost_usd", "count"), ("query_id", "count")]).to_pylist()
    arms = sorted(row["model"] for row in cost if row["cost_usd_count"] == row["query_id_count"])
    queries = parquet.read_table(folder / "bfcl" / "queries.parquet")
    shown = [
        f"{question}\n{functions}"
        for question, functions in zip(
            *(queries[name].to_pylist() for name in ("question", "functions_json")), strict=True
        )
    ]
    queries = queries.append_column("shown", [shown])
    names = {"arm": "model", "quality": "valid", "domain": "category"}
    log = OutcomeLog.from_long(outcomes, queries=queries, text="shown", arms=arms, columns=names)
    about = (
        f"The {len(arms)} of 71 configurations whose cost is known on every query, chosen by that alone; the text is the "
        "question with the offered functions."
    )
    return RoutingSet("Berkeley function calling", log, "USD", about)


def routerarena(folder: Path) -> RoutingSet:
    """RouterArena's 10% sample of two models, of which one dominates."""
    path = folder / "routerarena" / "routerarena_sub10.parquet"
    log = OutcomeLog.read_parquet(path, text="prompt", columns={"domain": "task"})
    about = "One arm is both better and cheaper: the zero router is that arm, and a router must not do worse."
    return RoutingSet("RouterArena, 10% sample", log, "USD", about)


def leaderboard_bbh(folder: Path) -> RoutingSet:
    """BBH rows of the Open LLM Leaderboard, the only ones with texts."""
    table = parquet.read_table(folder / "open_llm_leaderboard_v2" / "outcomes.parquet")
    table = table.filter(np.array([text is not None for text in table["prompt"].to_pylist()]))
    log = OutcomeLog.from_wide(table, text="prompt", columns={"domain": "scenario"})
    prices = csv.read_csv(folder / "open_llm_leaderboard_v2" / "prices.csv").to_pydict()
    price = dict(zip(prices["model"], prices["usd_per_mtok"], strict=True))
    tokens = np.array([len(text) for text in log.X]) / 4.0
    log = replace(log, cost=np.outer(tokens, [price[arm] * 1e-6 for arm in log.arms]))
    about = "The rows with texts.  Cost: price per token times the length of the prompt at 4 characters a token (an assumption)."
    return RoutingSet("Open LLM Leaderboard v2, BBH", log, "USD", about)


def _strong_call_cost(log: OutcomeLog) -> OutcomeLog:
    """1 for the arm of higher mean quality, 0 for the other."""
    strong = int(np.asarray(log.quality).mean(axis=0).argmax())
    cost: Any = np.zeros(log.quality.shape)
    cost[:, strong] = 1.0
    return replace(log, cost=cost)


SETS: dict[str, Callable[[Path], RoutingSet]] = {
    "mmlu": mmlu,
    "gsm8k": gsm8k,
    "mt_bench": mt_bench,
    "routerbench": routerbench,
    "bfcl": bfcl,
    "routerarena": routerarena,
    "leaderboard_bbh": leaderboard_bbh,
}
