"""Train the tiny models, run them on fresh queries, grade the answers, and write the outcome log.

    python -m defer.portfolios.tiny.build --out defer/data/tiny.parquet

Outcomes are real: every answer was decoded by the model in question and compared with the right one.  Latency is the wall
time of that one decoding, one query at a time.  Prices are ours: proportional to the number of parameters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from defer.portfolios.tiny.model import CharModel, answer, encode, encode_batch
from defer.portfolios.tiny.tasks import TASKS, draw, is_correct

__all__ = ["ARMS", "USD_PER_TOKEN_PARAMETER", "ArmPlan", "build", "evaluation_queries", "main", "run", "train"]

NUMBERS = ("addition", "subtraction", "comparison", "sorting", "units", "dates")
STRINGS = ("reversal", "counting", "spelling", "brackets", "sorting")

# US dollars per token and parameter, so that the largest model costs about what a small hosted model does.
USD_PER_TOKEN_PARAMETER = 2e-12


@dataclass(frozen=True)
class ArmPlan:
    """Size and training of one arm.

    `share` is the weight of each task in its training mix; tasks that are not named are not seen.
    """

    name: str
    width: int
    layers: int
    heads: int
    steps: int
    share: dict[str, float]


ARMS = (
    ArmPlan("nano-generalist", 48, 1, 4, 2000, dict.fromkeys(TASKS, 1.0)),
    ArmPlan("small-numbers", 96, 2, 4, 3000, dict.fromkeys(NUMBERS, 1.0)),
    ArmPlan("small-strings", 96, 2, 4, 3000, dict.fromkeys(STRINGS, 1.0)),
    ArmPlan("medium-generalist", 96, 3, 4, 2500, dict.fromkeys(TASKS, 1.0)),
    ArmPlan("large-generalist", 160, 4, 8, 2000, {**dict.fromkeys(TASKS, 1.0), "reversal": 0.3, "units": 0.3}),
)


def train(plan: ArmPlan, steps: int, held_out: set[str], *, batch: int = 96, seed: int = 0) -> CharModel:
    """Train one arm on queries drawn afresh, none of which is held out."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 1)
    model = CharModel(plan.width, plan.layers, plan.heads)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    names, weight = list(plan.share), np.array(list(plan.share.values()))
    for step in range(steps):
        counts = rng.multinomial(batch, weight / weight.sum())
        pairs = [pair for name, count in zip(names, counts, strict=True) for pair in draw(name, int(count), rng)]
        pairs = [pair for pair in pairs if pair[0] not in held_out]
        tokens, counted = encode_batch(pairs)
        loss = cross_entropy(model(tokens[:, :-1])[counted], tokens[:, 1:][counted])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 500 == 0 or step == steps - 1:
            print(f"{plan.name}: step {step:5d} loss {loss.item():.4f}", flush=True)
    return model.eval()


def evaluation_queries(per_task: int, seed: int) -> list[tuple[str, str, str]]:
    """Distinct (task, prompt, answer) triples, shuffled."""
    rng = np.random.default_rng(seed)
    found: dict[str, tuple[str, str, str]] = {}
    for task in TASKS:
        kept, tries = 0, 0
        while kept < per_task and tries < 200 * per_task:
            (prompt, target), tries = draw(task, 1, rng)[0], tries + 1
            if prompt not in found:
                found[prompt], kept = (task, prompt, target), kept + 1
    queries = list(found.values())
    return [queries[index] for index in rng.permutation(len(queries))]


def run(model: CharModel, queries: Sequence[tuple[str, str, str]]) -> tuple[list[str], list[float]]:
    """Answers and seconds, one query at a time."""
    for _ in range(min(20, len(queries) // 4)):  # the first answers of a model are slow
        answer(model, queries[0][1])
    answers, seconds = [], []
    for _, prompt, _ in queries:
        start = time.perf_counter()
        answers.append(answer(model, prompt))
        seconds.append(time.perf_counter() - start)
    return answers, seconds


def build(out: Path, *, quick: bool = False, seed: int = 0) -> None:
    """Train, run, grade, write.

    Parameters
    ----------
    out : Path
        Parquet file to write.
    quick : bool, default=False
        A few steps and queries only, to try the script.
    seed : int, default=0
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    started, threads = time.perf_counter(), torch.get_num_threads()
    queries = evaluation_queries(2 if quick else 500, seed=seed + 100)
    held_out = {prompt for _, prompt, _ in queries}
    columns: dict[str, Any] = {
        "query_id": np.arange(len(queries)),
        "prompt": [prompt for _, prompt, _ in queries],
        "domain": [task for task, _, _ in queries],
        "target": [target for _, _, target in queries],
    }
    tokens_in = np.array([len(encode(prompt)) for _, prompt, _ in queries])
    for number, plan in enumerate(ARMS):
        torch.set_num_threads(1 if quick else 2)
        steps, batch = (3, 16) if quick else (plan.steps, 96)
        model = train(plan, steps, held_out, batch=batch, seed=seed + number)
        torch.set_num_threads(1)
        answers, seconds = run(model, queries)
        right = [is_correct(given, target) for given, (_, _, target) in zip(answers, queries, strict=True)]
        tokens_out = np.array([len(given) + 1 for given in answers])
        price = model.n_parameters * USD_PER_TOKEN_PARAMETER
        columns |= {
            f"score:{plan.name}": np.array(right, dtype=float),
            f"cost_usd:{plan.name}": price * (tokens_in + tokens_out),
            f"latency_s:{plan.name}": np.round(seconds, 6),
            f"input_tokens:{plan.name}": tokens_in,
            f"output_tokens:{plan.name}": tokens_out,
        }
        print(
            f"{plan.name}: {model.n_parameters} parameters, {np.mean(right):.3f} right, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    torch.set_num_threads(threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), out, compression="zstd", compression_level=19)
    print(f"{len(queries)} queries, {len(ARMS)} arms -> {out} ({out.stat().st_size} bytes)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m defer.portfolios.tiny.build", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to try the script")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    build(given.out, quick=given.quick, seed=given.seed)


if __name__ == "__main__":
    main()
