"""The shared routing sets as outcome logs with a cost for every arm.

Each reader says what it had to decide: the cost axis, the text or the numbers, the arms, the domains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from defer import OutcomeLog

__all__ = ["DATA", "SETS", "RoutingSet", "first_rows"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class RoutingSet:
    """A log and how it came about.

    Attributes
    ----------
    title : str
    log : OutcomeLog
        Full information, `cost` in the unit that `unit` names.
    unit : {"share", "USD", "CNY", "tokens"}
    about : str
        What was decided in reading it.
    choices : dict of str to int array of shape (n,)
        Arm of every query that a published router took.
    right_above : float or None
        What counts as right where quality has too many grades for `PoolVoteRouter` to take the highest.
    """

    title: str
    log: OutcomeLog
    unit: str
    about: str
    choices: dict[str, Any] = field(default_factory=dict)
    right_above: float | None = None

    @property
    def is_share(self) -> bool:
        """Whether the cost axis is the share of calls to the strong arm, so that RouteLLM's metrics apply."""
        return self.unit == "share"

    @property
    def is_text(self) -> bool:
        """Whether queries are texts; else they are numbers."""
        return isinstance(self.log.X, list)

    def select(self, rows: Any) -> RoutingSet:
        """The same of some rows."""
        choices = {name: arm[rows] for name, arm in self.choices.items()}
        return replace(self, log=self.log.select(rows), choices=choices)


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
    # Tasks such as MMLUPro_law and WMT19-gu-en are parts of one benchmark.
    domain = np.array([task.split("_")[0].split("-")[0] for task in log.domain])
    about = (
        "One arm is both better and cheaper: the zero router is that arm, and a router must not do worse.  Quality is graded; "
        "where a router asks what is right, that is a grade above 0.5.  A domain is the name of a benchmark without its parts."
    )
    return RoutingSet("RouterArena, 10% sample", replace(log, domain=domain), "USD", about, right_above=0.5)


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


def bbh_direct(folder: Path) -> RoutingSet:
    """One model that answers directly or thinks aloud."""
    path = folder / "bbh_direct_vs_cot" / "bbh_direct_vs_cot.parquet"
    log = OutcomeLog.read_parquet(path, text="prompt", columns={"domain": "task"})
    table = parquet.read_table(path)
    length = [_numbers(table, f"prompt_chars:{arm}") + _numbers(table, f"output_chars:{arm}") for arm in log.arms]
    about = (
        "code-davinci-002, directly or with chain of thought.  Cost: tokens of prompt, with its examples, and of the logged "
        "answer, at 4 characters a token (an assumption); no price.  The text is the question alone."
    )
    return RoutingSet(
        "BBH, direct or chain of thought", replace(log, cost=np.column_stack(length) / 4.0), "tokens", about
    )


def mot_date(folder: Path) -> RoutingSet:
    """Date understanding by models and ways to prompt them, one arm each."""
    table = parquet.read_table(folder / "mot_cascade" / "date.parquet").to_pandas()
    # US dollars per output token; llama2-13b has no price.
    price = {"gpt-3.5-turbo": 2e-6, "gpt-3.5-turbo_t0.4": 2e-6, "gpt-4-sc3": 6e-5, "gpt-4-greedy": 6e-5}
    table = table[table["model"].isin(price)]
    table["arm"] = table["model"] + " " + table["prompting"]
    table["cost"] = table["output_chars"] / 4.0 * table["model"].map(price)
    wide = table.pivot(index="question", columns="arm", values=["score", "cost"])
    arms = list(wide["score"].columns)
    quality, cost = (wide[name].to_numpy(dtype=float) for name in ("score", "cost"))
    log = OutcomeLog.from_arrays(list(wide.index), quality, arms=arms, cost=cost)
    about = (
        "One arm a (model, prompting) of those with a price, with the majority of its samples as the answer.  Cost: the authors' "
        "price of output tokens times the characters of all samples at 4 a token; prompts are not logged and cost nothing here, "
        "which favours GPT-4 and self-consistency."
    )
    return RoutingSet("MoT cascade, dates", log, "USD", about)


def llmdrift(folder: Path) -> RoutingSet:
    """Two models in two versions on three tasks."""
    table = parquet.read_table(folder / "llmdrift" / "llmdrift.parquet")
    columns = {"arm": "model", "quality": "score", "cost": "cost_usd", "domain": "task"}
    log = OutcomeLog.from_long(table, text="prompt", columns=columns)
    about = "GPT-4 and GPT-3.5, March and June 2023, as four arms.  Three tasks of one form of question each: a domain is a task."
    return RoutingSet("LLM drift", log, "USD", about)


def routerbench_mini(folder: Path) -> RoutingSet:
    """A cheap and a strong model without texts, and what published routers chose."""
    table = parquet.read_table(folder / "routerbench_mini" / "routerbench_mini_v5_test.parquet").to_pandas()
    arms = ["qwen3.5-35b-a3b", "qwen3.5-397b-a17b"]
    kinds = ["dataset", "task_family", "task_type", "task_subtype", "difficulty_group"]
    columns = [_one_hot(table[name].to_numpy()) for name in kinds]
    columns.append(np.log(table[f"prompt_tokens:{arms[0]}"].to_numpy(dtype=float))[:, None])
    quality, cost = (table[[f"{name}:{arm}" for arm in arms]].to_numpy(dtype=float) for name in ("score", "cost_cny"))
    log = OutcomeLog.from_arrays(
        np.hstack(columns), quality, arms=arms, cost=cost, domain=table["dataset"].to_numpy(dtype=str)
    )
    choices = {
        name.removeprefix("published_choice:").replace("_", " "): (table[name] == "strong").to_numpy().astype(int)
        for name in table.columns
        if name.startswith("published_choice:")
    }
    about = (
        "No texts: the features are the data set, family, type, subtype and difficulty group as indicators, and the logarithm of "
        "the cheap model's prompt tokens.  A domain is a data set.  Published routers chose on these very rows; they were trained "
        "on other rows of the same study."
    )
    return RoutingSet("RouterBench mini", log, "CNY", about, choices)


def frugalml(folder: Path, name: str) -> RoutingSet:
    """Commercial prediction services after a free one whose label and confidence are known."""
    table = parquet.read_table(folder / "frugalml" / f"{name}.parquet").to_pandas()
    table = table.iloc[np.sort(np.random.default_rng(0).permutation(len(table))[:_FRUGAL_ROWS])]
    prices = csv.read_csv(folder / "frugalml" / "prices.csv").to_pandas()
    price = prices[prices["dataset"] == name.upper()].set_index("service")["usd_per_call"]
    services = [column.removeprefix("score:") for column in table.columns if column.startswith("score:")]
    base = next(service for service in services if service.startswith("GitHub"))
    services = [base, *(service for service in services if service != base)]
    cost = [price[base] + (0.0 if service == base else price[service]) for service in services]
    quality = table[[f"score:{service}" for service in services]].to_numpy(dtype=float)
    label, confidence = (table[f"{kind}:{base}"].to_numpy() for kind in ("pred", "confidence"))
    log = OutcomeLog.from_arrays(
        np.hstack([_one_hot(label, most=40), np.nan_to_num(confidence.astype(float))[:, None]]),
        quality,
        arms=[base, *(f"{base}, then {service}" for service in services[1:])],
        cost=np.tile(cost, (len(table), 1)),
    )
    about = (
        f"A random {len(table):,} of the rows.  The free service is always asked first, and what is known of a query is its label "
        "(the 40 most frequent ones) and its confidence; then its answer stands, or one other service's does, for the price of both."
    )
    return RoutingSet(f"FrugalML, {name.upper()}", log, "USD", about)


_FRUGAL_ROWS = 4000


def first_rows(part: RoutingSet, most: int) -> RoutingSet:
    """At most so many rows of a set, drawn at random with a fixed seed."""
    if len(part.log) <= most:
        return part
    return part.select(np.sort(np.random.default_rng(0).permutation(len(part.log))[:most]))


def _numbers(table: Any, name: str) -> Any:
    return table[name].to_numpy().astype(float)


def _one_hot(values: Any, most: int | None = None) -> Any:
    """Indicators of the values, of the `most` most frequent ones if a number is given."""
    names, count = np.unique(values.astype(str), return_counts=True)
    if most is not None:
        names = np.sort(names[np.argsort(-count, kind="stable")[:most]])
    return (values.astype(str)[:, None] == names[None, :]).astype(float)


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
    "bbh_direct": bbh_direct,
    "mot_date": mot_date,
    "llmdrift": llmdrift,
    "routerbench_mini": routerbench_mini,
    **{
        f"frugalml_{name}": partial(frugalml, name=name)
        for name in ("imdb", "shop", "waimai", "expw", "rafdb", "command", "audiomnist")
    },
}
