"""Speed and memory as ratios to what cannot be avoided, measured side by side in one run.

Prints the tables of docs/benchmarks/speed.rst and writes them:  python benchmarks/speed.py [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import interleaved, machine, page, table
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge

from defer import Budget, OutcomeLog, evaluate, make_pipeline
from defer.estimators import KNNRouter, QualityRouter
from defer.evaluation.frontier import aiq
from defer.portfolios.zero_router import upper_hull

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "speed.rst"
WORDS = 3_000

Part = tuple[str, str]


def imports(repeats: int) -> Part:
    """Fresh processes, taken in turns."""
    lines = {
        "import sklearn, narwhals": "import sklearn, narwhals",
        "import defer": "import defer",
        "everything that the first example uses": (
            "from defer import OutcomeLog, Budget, evaluate, make_pipeline\n"
            "from defer.estimators import QualityRouter\n"
            "from sklearn.linear_model import Ridge\n"
            "from sklearn.feature_extraction.text import TfidfVectorizer"
        ),
        "the scikit-learn half of it": (
            "from sklearn.linear_model import Ridge\nfrom sklearn.feature_extraction.text import TfidfVectorizer"
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for turn in range(repeats + 1):
        for name, line in lines.items():
            code = f"from time import perf_counter\nstart = perf_counter()\n{line}\nprint(perf_counter() - start)"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            if turn:
                seconds[name].append(float(done.stdout))
    base = np.median(seconds["import sklearn, narwhals"])
    rows = [
        [f"``{name}``" if name.startswith("import") else name, *_numbers(taken, base)]
        for name, taken in seconds.items()
    ]
    title = ["", "seconds", "ratio to the first"]
    return "Import (targets: under 0.7 s warm; at most 1.3)", table(title, rows)


def routing(n: int, m: int, repeats: int) -> Part:
    """`route` beside the `predict` of the base learner that it calls."""
    rng = np.random.default_rng(0)
    train, dense = rng.normal(size=(1_000, 384)).astype(np.float32), rng.normal(size=(n, 384)).astype(np.float32)
    quality, cost = rng.random((1_000, m)), rng.random((1_000, m))
    vocabulary = np.array([f"word{index}" for index in range(WORDS)])
    texts = [" ".join(vocabulary[row]) for row in rng.integers(0, WORDS, size=(n, 40))]
    vectorizer = HashingVectorizer(n_features=2**18)
    sparse = vectorizer.transform(texts)
    trees = HistGradientBoostingRegressor(max_iter=30)
    rows = []

    def add(name: str, router: Any, queries: Any, predict: Callable[[], Any], limit: Any = None) -> None:
        seconds = interleaved(
            {"predict": predict, "route": lambda: router.route(queries, limit=limit)}, repeats=repeats
        )
        base = float(np.median(seconds["predict"]))
        rows.append([name, f"{base:.3f}", *_numbers(seconds["route"], base)])

    ridge = QualityRouter(Ridge()).fit(train, quality)
    add("ridge, 384 dense features, float32", ridge, dense, lambda: ridge.regressors_[0].predict(dense))
    costly = QualityRouter(Ridge(), Ridge()).fit(train, quality, cost=cost)
    both = lambda: (costly.regressors_[0].predict(dense), costly.cost_regressors_[0].predict(dense))  # noqa: E731
    add("ridge for quality and for cost, dense", costly, dense, both)
    add("the same under a budget: an exact linear program more", costly, dense, both, Budget(mean_cost=0.3))
    thin = QualityRouter(Ridge()).fit(sparse[:1_000], quality)
    add("ridge, sparse n-grams of 40 words", thin, sparse, lambda: thin.regressors_[0].predict(sparse))
    text = make_pipeline(vectorizer, QualityRouter(Ridge(), Ridge())).fit(texts[:1_000], quality, cost=cost)

    def learners() -> None:
        features = vectorizer.transform(texts)
        for learner in (text[-1].regressors_[0], text[-1].cost_regressors_[0]):
            learner.predict(features)

    add("text: vectoriser, ridge for quality and for cost", text, texts, learners)
    add("the same under a budget", text, texts, learners, Budget(mean_cost=0.45))
    few = np.ascontiguousarray(dense[:, :20])
    forest = QualityRouter(trees).fit(few[:1_000], quality)
    add("boosted trees, one model an arm", forest, few, lambda: [tree.predict(few) for tree in forest.regressors_])
    title = ["base learner", "its predict, seconds", "route, seconds", "ratio"]
    return f"Routing {n:,} queries x {m} arms (target: at most 1.3)", table(title, rows)


def neighbors(n: int, d: int, repeats: int) -> Part:
    """`KNNRouter` beside one matrix product and `argpartition` in the chunks that it uses itself."""
    rng = np.random.default_rng(0)
    logged, queries = (_unit(rng.normal(size=(n, d)).astype(np.float32)) for _ in range(2))
    router = KNNRouter(40).fit(logged, rng.random((n, 10)))
    chunk = max(1, 64 * 2**20 // (12 * n))

    def bare() -> None:
        for low in range(0, n, chunk):
            np.argpartition(-queries[low : low + chunk] @ logged.T, 39, axis=1)[:, :40]

    seconds = interleaved({"bare": bare, "KNNRouter": lambda: router.predict_quality(queries)}, repeats=repeats)
    base = float(np.median(seconds["bare"]))
    row = [f"{n:,} x {n:,} x {d}, float32, 10 arms", f"{base:.2f}", *_numbers(seconds["KNNRouter"], base)]
    title = ["size", "product and argpartition, seconds", "KNNRouter, seconds", "ratio"]
    return "Nearest neighbours (target: at most 1.5)", table(title, [row])


def neighbors_memory(n: int, d: int) -> Part:
    """Memory on top of the data at two numbers of queries: what does not grow with them is the blocks."""
    rng = np.random.default_rng(0)
    logged = rng.normal(size=(n, d)).astype(np.float32)
    router = KNNRouter(40).fit(logged, rng.random((n, 10)))
    peaks = []
    counts = (n // 100, n // 50)
    for count in counts:
        tracemalloc.start()
        router.predict_quality(logged[:count])
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    slope = (peaks[1] - peaks[0]) / (counts[1] - counts[0])
    rows = [[f"{count:,}", f"{peak:.0f}"] for count, peak in zip(counts, peaks, strict=True)]
    rows.append([f"{n:,} (extrapolated)", f"{peaks[1] + slope * (n - counts[1]):.0f}"])
    return (
        f"Memory of nearest neighbours among {n:,} x {d}, float32 (target: under 1 GB)",
        table(["queries", "allocated on top of the data, MB"], rows),
    )


def hulls(n: int, repeats: int) -> Part:
    """Hull and AIQ of clouds that are easy and that are hard."""
    rng = np.random.default_rng(0)
    cost = rng.random(n)
    clouds = {
        "uniform": rng.random(n),
        "noise on a concave curve": np.sqrt(cost) + rng.normal(0, 0.02, n),
        "a concave curve: every point is a vertex": np.sqrt(cost),
        "a line, but for rounding": 0.3 * cost,
    }
    rows = []
    for name, quality in clouds.items():
        runs = {
            "hull": lambda quality=quality: upper_hull(cost, quality),
            "aiq": lambda quality=quality: aiq(cost, quality),
        }
        seconds = interleaved(runs, repeats=repeats)
        vertices = len(upper_hull(cost, quality)[0])
        rows.append([name, f"{vertices:,}", *(f"{np.median(seconds[key]):.2f}" for key in ("hull", "aiq"))])
    return (
        f"Hull and AIQ of {n:,} points (target: under 2 s)",
        table(["points", "vertices", "hull, seconds", "AIQ, seconds"], rows),
    )


def report(n: int, m: int) -> Part:
    """Evaluation and report of a router on a full-information log with texts, domains and costs."""
    rng = np.random.default_rng(0)
    skill, hardness = np.linspace(0.3, 0.9, m), rng.normal(0, 1, size=(n, 5))
    chance = 1 / (1 + np.exp(-(4 * (skill - 0.5) + 0.8 * hardness[:, :1])))
    log = OutcomeLog.from_arrays(
        hardness,
        (rng.random((n, m)) < chance).astype(float),
        cost=np.outer(rng.gamma(2.0, 1.0, n), 1e-4 * 2.0 ** np.arange(m)),
        latency=rng.gamma(2.0, 0.5, size=(n, m)),
        domain=rng.integers(0, 20, n).astype(str),
    )
    router = QualityRouter(Ridge(), Ridge())
    train = log.select(slice(0, min(2_000, n // 2)))
    router.fit(train.X, train.quality, cost=train.cost)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        seconds = interleaved({"evaluate and to_html": lambda: evaluate(router, log).to_html(path)}, repeats=1)
        size = path.stat().st_size / 1e6
    row = [f"{n:,} x {m}", f"{seconds['evaluate and to_html'][0]:.1f}", f"{size:.2f}"]
    title = ["queries x arms", "evaluate and write, seconds", "file, MB"]
    return "Report (targets: under 20 s, under 2 MB)", table(title, [row])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _numbers(seconds: list[float], base: float) -> list[str]:
    value = float(np.median(seconds))
    return [f"{value:.3f}", f"{value / base:.2f}"]


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of every size, prints only")
    parser.add_argument("--output", type=Path, default=None, help=f"default docs/benchmarks/{DOCS.name}")
    parser.add_argument("--only", nargs="+", choices=("imports", "routing", "neighbors", "memory", "hulls", "report"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    part, repeats = (10, 3) if options.quick else (1, 7)
    steps: dict[str, Callable[[], Part]] = {
        "imports": lambda: imports(repeats),
        "routing": lambda: routing(100_000 // part, 10, repeats),
        "neighbors": lambda: neighbors(20_000 // part, 384, 3),
        "memory": lambda: neighbors_memory(100_000 // part, 384),
        "hulls": lambda: hulls(1_000_000 // part, 3),
        "report": lambda: report(100_000 // part, 11),
    }
    parts = []
    for name in options.only or steps:
        parts.append(steps[name]())
        print("\n".join(parts[-1]), file=sys.stderr, flush=True)
    about = (
        "Times are medians of runs taken in turns in one process (imports: in fresh processes), after one turn that warms up; "
        f"simulated data, because only sizes matter here.  {machine()}"
    )
    text = page("Speed and memory", "``python benchmarks/speed.py``", about, *parts)
    print(text)
    if options.output or not (options.quick or options.only):
        (options.output or DOCS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
