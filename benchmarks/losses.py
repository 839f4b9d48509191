"""Time and memory of the losses beside a plain softmax cross-entropy, measured side by side in one process.

Prints the tables of docs/benchmarks/losses.rst and writes them:  python benchmarks/losses.py [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import interleaved, machine, page, table

from defer.losses import (
    COMP_SUMS,
    MARGINS,
    SURROGATES,
    deferral_cost,
    post_hoc_partial,
    post_hoc_regression,
    predictor_rejector,
    two_stage,
)

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "losses.rst"
TARGET, MEMORY_TARGET = 3.0, 4.0

Part = tuple[str, str]
Runs = dict[str, Callable[[], Any]]


def plain_cross_entropy(scores: Any, labels: Any) -> tuple[Any, Any]:
    """Value and gradient as everybody writes them."""
    rows = np.arange(len(labels))
    shifted = scores - scores.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    gradient = e / total
    gradient[rows, labels] -= 1.0
    return np.log(total[:, 0]) - shifted[rows, labels], gradient


def in_blocks(scores: Any, labels: Any, rows: int = 4_096) -> tuple[Any, Any]:
    """The same over blocks of rows that stay in the cache, for those who would write that."""
    value, gradient = np.empty(len(labels), scores.dtype), np.empty_like(scores)
    for low in range(0, len(labels), rows):
        part = slice(low, low + rows)
        value[part], gradient[part] = plain_cross_entropy(scores[part], labels[part])
    return value, gradient


def both(loss: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """Value and gradient of one of our losses."""
    result = loss(*arguments, **options)
    return result.value, result.gradient


def matrix_runs(n: int, m: int, dtype: str) -> Runs:
    """Every loss of a score matrix; costs are 1 - [class] and 1 - [expert right], a fifth of the answers missing where named."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(n, m)).astype(dtype)
    labels, right = rng.integers(m - 1, size=n), rng.random(n) < 0.6
    cost = deferral_cost(labels, 1.0 - right, n_classes=m - 1).astype(dtype)
    gaps = cost.copy()
    gaps[rng.random(n) < 0.2, -1] = np.nan
    weight = rng.random(n).astype(dtype)
    runs: Runs = {
        "plain NumPy softmax cross-entropy": lambda: plain_cross_entropy(scores, labels),
        "the same in blocks of 4,096 rows": lambda: in_blocks(scores, labels),
    }
    for name, surrogate in SURROGATES.items():
        runs[f"surrogate {name}"] = partial(both, surrogate.loss, scores, cost, n_experts=1)
    for name in ("softmax", "ova"):
        runs[f"surrogate {name}, answers missing"] = partial(both, SURROGATES[name].loss, scores, gaps, n_experts=1)
    runs["surrogate softmax, weighted"] = partial(
        both, SURROGATES["softmax"].loss, scores, cost, n_experts=1, weight=weight
    )
    for weighting in ("one_minus_cost", "cost_of_others"):
        runs[f"two_stage, {weighting}"] = partial(both, two_stage, scores, cost, weighting=weighting)
    for name in list(COMP_SUMS)[1:]:
        runs[f"two_stage, {name}"] = partial(both, two_stage, scores, cost, comp_sum=name)
    runs["cross_entropy, labels"] = partial(both, COMP_SUMS["cross_entropy"], scores, labels)
    return runs


def vector_runs(n: int, dtype: str) -> Runs:
    """The losses of one score a sample, beside the logistic loss written plainly."""
    rng = np.random.default_rng(0)
    scores, sign = rng.normal(size=n).astype(dtype), rng.choice([-1.0, 1.0], size=n).astype(dtype)
    cost, pair = rng.random((n, 2)).astype(dtype), rng.normal(size=(n, 2)).astype(dtype)

    def plain() -> tuple[Any, Any]:
        margin = sign * scores
        return np.logaddexp(0, -margin), -sign / (1.0 + np.exp(margin))

    runs: Runs = {"plain NumPy logistic loss": plain}
    runs |= {f"{name}_margin": partial(both, loss, scores, sign) for name, loss in MARGINS.items()}
    runs["predictor_rejector"] = partial(both, predictor_rejector, scores, cost)
    runs["post_hoc_partial"] = partial(both, post_hoc_partial, scores, cost)
    runs["post_hoc_regression"] = partial(both, post_hoc_regression, pair, cost)
    return runs


def rows_of(runs: Runs, repeats: int, size: int) -> list[list[str]]:
    """Seconds, ratio to the first run, and peak of what is allocated in multiples of the scores."""
    seconds = interleaved(runs, repeats=repeats)
    base = float(np.median(seconds[next(iter(runs))]))
    rows = []
    for name, run in runs.items():
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1] / size
        tracemalloc.stop()
        taken = float(np.median(seconds[name]))
        rows.append([name, f"{taken:.3f}", f"{taken / base:.2f}", f"{peak:.2f}"])
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows, written nowhere")
    parser.add_argument("--output", type=Path, help="page to write instead of the one in docs")
    options = parser.parse_args()
    n, m, repeats = (10_000, 10, 3) if options.quick else (1_000_000, 10, 7)
    parts: list[Part] = []
    worst, fattest = 0.0, 0.0
    title = ["", "seconds", "ratio", "peak allocated, in score matrices"]
    for dtype in ("float64", "float32"):
        rows = rows_of(matrix_runs(n, m, dtype), repeats, n * m * np.dtype(dtype).itemsize)
        worst = max(worst, *(float(row[2]) for row in rows[2:]))
        fattest = max(fattest, *(float(row[3]) for row in rows[2:]))
        parts.append((f"{n:,} x {m}, {dtype}", table(title, rows)))
        print("\n".join(parts[-1]), file=sys.stderr, flush=True)
    rows = rows_of(vector_runs(n, "float64"), repeats, 8 * n)
    parts.append((f"{n:,} single scores, float64", table([*title[:3], "peak allocated, in score vectors"], rows)))
    parts.append(
        (
            "",
            f"Largest ratio of a loss of a score matrix: {worst:.2f} (target: at most {TARGET:g}); largest peak {fattest:.2f} score "
            f"matrices, the gradient itself included (target: under {MEMORY_TARGET:g}).",
        )
    )
    about = (
        "Value and gradient of every loss.  Times are medians of runs taken in turns in one process, after one turn that warms up; the "
        "ratio is to the first row; memory is what NumPy allocates on top of scores and costs, the result included.  The losses work "
        "in blocks of rows, laid out by column, that stay in the cache, which is why they can be faster than the plain formula.  "
        f"{machine()}"
    )
    text = page("Losses", "``python benchmarks/losses.py``", about, *parts)
    print(text)
    if options.output or not options.quick:
        (options.output or DOCS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
