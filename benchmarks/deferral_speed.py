"""Fitting deferral beside fitting a classifier of as many classes on the same matrix, in one run.

Prints the table of docs/benchmarks/deferral_speed.rst and writes it:  python benchmarks/deferral_speed.py [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from side_by_side import interleaved, machine, page, table
from sklearn.linear_model import LogisticRegression

from defer.estimators import TwoStageDeferral

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "deferral_speed.rst"
FEATURES, EXPERTS = 384, 5


def outcomes(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, whether each of six arms answers them right, and the arm to take: the first that is right."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, FEATURES))
    chance = 1 / (1 + np.exp(-X @ rng.normal(scale=2 / np.sqrt(FEATURES), size=(FEATURES, 1 + EXPERTS))))
    right = (rng.random(chance.shape) < chance).astype(float)
    return X, right, np.where(right.any(axis=1), right.argmax(axis=1), 0)


def rows_of(n: int, repeats: int) -> list[list[str]]:
    """One row per dtype and target: seconds, iterations and the ratio."""
    X, right, label = outcomes(n)
    rows = []
    for dtype in (np.float64, np.float32):
        queries = X.astype(dtype)
        fitted: dict[str, object] = {}

        def classifier(queries: np.ndarray = queries, fitted: dict[str, object] = fitted) -> None:
            fitted["classifier"] = LogisticRegression(solver="lbfgs", tol=1e-4, max_iter=100).fit(queries, label)

        def by_quality(queries: np.ndarray = queries, fitted: dict[str, object] = fitted) -> None:
            fitted["quality"] = TwoStageDeferral(tol=1e-4, max_iter=100).fit(queries, right)

        def by_label(queries: np.ndarray = queries, fitted: dict[str, object] = fitted) -> None:
            fitted["label"] = TwoStageDeferral(tol=1e-4, max_iter=100).fit(queries, label)

        runs = {"classifier": classifier, "label": by_label, "quality": by_quality}
        seconds = interleaved(runs, repeats=repeats)
        base = float(np.median(seconds["classifier"]))
        names = {
            "classifier": "``LogisticRegression``, arm to take",
            "label": "``TwoStageDeferral``, arm to take: the same problem",
            "quality": "``TwoStageDeferral``, outcomes of all arms",
        }
        for key, name in names.items():
            iterations = int(np.max(fitted[key].n_iter_))
            value = float(np.median(seconds[key]))
            rows.append([np.dtype(dtype).name, name, f"{value:.2f}", str(iterations), f"{value / base:.2f}"])
    return rows


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the queries, prints only")
    parser.add_argument("--output", type=Path, default=None, help=f"default docs/benchmarks/{DOCS.name}")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    n = 10_000 if options.quick else 100_000
    header = ["queries", "fit", "seconds", "iterations", "ratio to the classifier"]
    part = (
        f"Two stages, {n:,} x {FEATURES}, {EXPERTS} experts (target: at most 2)", table(header, rows_of(n, repeats=3))
    )  # fmt: skip
    about = (
        "Medians of fits taken in turns in one process, after one turn that warms up; simulated data, because only sizes matter "
        f"here.  All fits have tol=1e-4 and max_iter=100.  A deferral fit from outcomes includes a ridge regression of the total "
        f"credit, which puts its predictions on the scale of quality.  {machine()}"
    )
    text = page("Speed of deferral", "``python benchmarks/deferral_speed.py``", about, part)
    print(text)
    if options.output or not options.quick:
        (options.output or DOCS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
