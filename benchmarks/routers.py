"""Every router on every shared routing set, by repeated grouped cross-validation.

Prints one table per set and, after a whole run, writes docs/benchmarks/routers.rst:

    python benchmarks/routers.py [--quick] [--sets mmlu routerbench …] [--repeats 3] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from cached_features import cached, register
from routing_sets import DATA, SETS, RoutingSet
from side_by_side import machine, page, table
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

import defer
from defer import OutcomeLog, make_pipeline
from defer.estimators import KNNRouter, QualityRouter, RandomMixture
from defer.estimators.embeddings import SentenceEmbedder, local_model
from defer.evaluation.frontier import aiq, oracle, sweep
from defer.evaluation.two_arm import apgr, strong_share_curve
from defer.portfolios.assignment.choice import choose_at_price
from defer.portfolios.splitting import query_groups
from defer.portfolios.zero_router import area_over_zero, upper_hull

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "routers.rst"
FOLDS, POINTS, DRAWS, QUICK_QUERIES = 5, 100, 500, 600

Floats = np.ndarray


@dataclass(frozen=True)
class Candidate:
    """A router by name; `make` builds it for a log."""

    name: str
    make: Callable[[], Any]
    needs_embeddings: bool = False
    needs_labels: bool = False


def words() -> TfidfVectorizer:
    """Words and word pairs that occur at least twice."""
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)


def trees() -> HistGradientBoostingRegressor:
    """Shallow, slow boosting: outcomes of single queries are noisy."""
    return HistGradientBoostingRegressor(max_iter=80, learning_rate=0.06, max_leaf_nodes=8, random_state=0)


CANDIDATES = (
    Candidate("RandomMixture (zero router)", lambda: make_pipeline(words(), RandomMixture())),
    Candidate("defer.router(), light install", lambda: defer.router(embeddings=False)),
    Candidate("defer.router(), with embeddings", lambda: defer.router(embeddings=True), needs_embeddings=True),
    Candidate("QualityRouter(Ridge) on TF-IDF", lambda: make_pipeline(words(), QualityRouter(Ridge()))),
    Candidate(
        "QualityRouter(LogisticRegression) on TF-IDF",
        lambda: make_pipeline(words(), QualityRouter(LogisticRegression())),
        needs_labels=True,
    ),
    Candidate("KNNRouter on TF-IDF", lambda: make_pipeline(words(), KNNRouter())),
    Candidate("KNNRouter on embeddings", lambda: make_pipeline(SentenceEmbedder(), KNNRouter()), needs_embeddings=True),
    Candidate(
        "QualityRouter(Ridge) on embeddings",
        lambda: make_pipeline(SentenceEmbedder(), QualityRouter(Ridge(alpha=3.0))),
        needs_embeddings=True,
    ),
    Candidate(
        "QualityRouter(boosted trees) on 40 components of TF-IDF",
        lambda: make_pipeline(words(), TruncatedSVD(40, random_state=0), QualityRouter(trees())),
    ),
    Candidate(
        "QualityRouter(boosted trees) on 40 components of embeddings",
        lambda: make_pipeline(SentenceEmbedder(), PCA(40, random_state=0), QualityRouter(trees())),
        needs_embeddings=True,
    ),
)


def out_of_fold(log: OutcomeLog, make: Callable[[], Any], name: str, seed: int) -> tuple[Floats, Floats]:
    """Predicted quality and cost of every query by a router that saw neither it nor an equal text."""
    groups = query_groups(log)
    fold = (np.random.default_rng(seed).permutation(groups.max() + 1) % FOLDS)[groups]
    quality, cost = np.empty(log.quality.shape), np.empty(log.quality.shape)
    for part in range(FOLDS):
        train, test = log.select(fold != part), log.select(fold == part)
        router = cached(make(), name).fit(train.X, train.quality, cost=train.cost)
        routing = router.route(test.X)
        quality[fold == part], cost[fold == part] = routing.predicted_quality, routing.predicted_cost
    return quality, cost


class Curve:
    """A router's operating points with what they realise on every query, so that resampling costs one product."""

    def __init__(self, predicted: tuple[Floats, Floats], quality: Floats, cost: Floats) -> None:
        rows = np.arange(len(quality))
        price = sweep(*predicted, quality, cost, n_points=POINTS).price
        arms = [_arms_at(*predicted, float(value)) for value in price]
        self.quality = np.stack([quality[rows, arm] for arm in arms])
        self.cost = np.stack([cost[rows, arm] for arm in arms])
        self.free = choose_at_price(*predicted, price=0.0, fraction=0.0).low


def _arms_at(quality: Floats, cost: Floats, price: float) -> Floats:
    if np.isinf(price):
        cheapest = cost == cost.min(axis=1, keepdims=True)
        return np.where(cheapest, quality, -np.inf).argmax(axis=1)
    return choose_at_price(quality, cost, price=price, fraction=1.0).high


class Judge:
    """Metrics of predictions on one set, each on all queries and on resamples of its groups of equal texts."""

    def __init__(self, part: RoutingSet, draws: int) -> None:
        self.part, self.quality, self.cost = part, np.asarray(part.log.quality), np.asarray(part.log.cost)
        groups = query_groups(part.log)
        rng = np.random.default_rng(0)
        count = groups.max() + 1
        resamples = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)[:, groups]
        # The first row is the data themselves.
        self.weights = np.concatenate([np.ones((1, len(groups)), dtype=np.int64), resamples])
        self.share = self.weights / self.weights.sum(axis=1, keepdims=True)
        self.arm_quality, self.arm_cost = self.share @ self.quality, self.share @ self.cost
        self.strong = int(self.cost.mean(axis=0).argmax())

    def metrics(self, predicted: tuple[Floats, Floats]) -> dict[str, Floats]:
        """Every metric on the data and on each resample, shape (1 + draws,)."""
        curve, rows = Curve(predicted, self.quality, self.cost), np.arange(len(self.quality))
        found = {
            "quality": self.share @ self.quality[rows, curve.free],
            "cost": self.share @ self.cost[rows, curve.free],
        }
        points = list(
            zip(self.share @ curve.cost.T, self.share @ curve.quality.T, self.arm_cost, self.arm_quality, strict=True)
        )
        found["area"] = np.array([area_over_zero(*point) for point in points])
        found["aiq"] = np.array([_aiq_in_range(*point) for point in points])
        if self.part.is_share:
            score = predicted[0][:, self.strong] - predicted[0][:, 1 - self.strong]
            found["apgr"] = np.array([self._apgr(score, weight) for weight in self.weights])
        return found

    def _apgr(self, score: Floats, weight: Floats) -> float:
        rows = np.repeat(np.arange(len(score)), weight)
        weak, strong = self.quality[rows, 1 - self.strong], self.quality[rows, self.strong]
        return apgr(*strong_share_curve(score[rows], weak, strong)) if strong.mean() > weak.mean() else np.nan


def _aiq_in_range(cost: Floats, quality: Floats, arm_cost: Floats, arm_quality: Floats) -> float:
    start = max(float(upper_hull(cost, quality)[0][0]), float(arm_cost.min()))
    return aiq(cost, quality, low=start, high=max(float(arm_cost.max()), start))


def compare(part: RoutingSet, name: str, repeats: int, draws: int) -> list[list[str]]:
    """Rows of one set's table."""
    judge, has_model = Judge(part, draws), local_model() is not None
    binary = bool(np.isin(judge.quality, (0.0, 1.0)).all())
    rows = _references(judge)
    for candidate in CANDIDATES:
        if candidate.needs_embeddings and not has_model:
            rows.append(_skipped(candidate.name, "needs a sentence-embedding model", part))
            continue
        if candidate.needs_labels and not binary:
            rows.append(_skipped(candidate.name, "quality is graded", part))
            continue
        start = perf_counter()
        found = [judge.metrics(out_of_fold(part.log, candidate.make, name, seed)) for seed in range(repeats)]
        rows.append(_row(candidate.name, found, part))
        print(f"  {perf_counter() - start:6.1f} s  {' | '.join(rows[-1])}", file=sys.stderr, flush=True)
    return rows


def header(part: RoutingSet) -> list[str]:
    """Columns of a set's table."""
    unit = "share of strong calls" if part.is_share else "USD per 1,000"
    return ["router", "quality, no limit", unit, "AIQ", "area over zero router", *(["APGR"] if part.is_share else [])]


def _references(judge: Judge) -> list[list[str]]:
    quality, cost, part = judge.quality, judge.cost, judge.part
    best = int(quality.mean(axis=0).argmax())
    zero = aiq(cost.mean(axis=0), quality.mean(axis=0))
    arm = oracle(quality, cost)
    rows, blank = np.arange(len(quality)), ["–"] if part.is_share else []
    perfect = {key: value[:1] for key, value in judge.metrics((quality, cost)).items()}
    perfect["quality"], perfect["cost"] = quality[rows, arm].mean(keepdims=True), cost[rows, arm].mean(keepdims=True)
    single = [f"{quality[:, best].mean():.4f}", _cost_text(cost[:, best].mean(), part)]
    return [
        [f"best single arm, in hindsight ({part.log.arms[best]})", *single, "–", "–", *blank],
        ["zero router, in hindsight", *single, f"{zero:.4f}", "0", *(["0.5"] if part.is_share else [])],
        _row("oracle, in hindsight", [perfect], part),
    ]


def _row(name: str, found: list[dict[str, Floats]], part: RoutingSet) -> list[str]:
    mean = {key: np.mean([metrics[key] for metrics in found], axis=0) for key in found[0]}
    cells = [name, f"{mean['quality'][0]:.4f}", _cost_text(mean["cost"][0], part), f"{mean['aiq'][0]:.4f}"]
    for key in ("area", "apgr") if part.is_share else ("area",):
        sign = "+" if key == "area" else ""
        text = f"{mean[key][0]:{sign}.4f}"
        if len(mean[key]) > 1:
            low, high = np.nanquantile(mean[key][1:], [0.025, 0.975])
            text += f" ({low:{sign}.4f} … {high:{sign}.4f})"
        if len(found) > 1:
            text += f", ± {np.std([metrics[key][0] for metrics in found], ddof=1):.4f}"
        cells.append(text)
    return cells


def _cost_text(cost: float, part: RoutingSet) -> str:
    return f"{cost:.3f}" if part.is_share else f"{1000 * cost:.4f}"


def _skipped(name: str, reason: str, part: RoutingSet) -> list[str]:
    return [name, f"skipped: {reason}", *["–"] * (len(header(part)) - 2)]


def _fewer(part: RoutingSet) -> RoutingSet:
    rows = np.sort(np.random.default_rng(0).permutation(len(part.log))[:QUICK_QUERIES])
    return RoutingSet(part.title, part.log.select(rows), part.unit, part.about)


ABOUT = f"""Every router is **fitted on a training part of these very outcomes: an advantage that published routers did not have**,
so no number here is comparable with a published one.  {FOLDS}-fold cross-validation in which equal texts (and the rows of one
cluster) stay together; all metrics are of the pooled out-of-fold predictions, and means over the repeats.

*quality, no limit*: mean quality where every query takes the arm of highest predicted quality, and what that costs.  *AIQ*:
mean quality of the concave hull of the router's operating points over the arms' range of costs, as far as the router reaches
it.  *area over zero router*: mean height of the router's own curve, no hull taken, over the concave hull of the single arms,
over the arms' range of costs.  *APGR*: area under the performance gap recovered, two arms.  In parentheses: 95% percentile
bootstrap over groups of equal texts, predictions held fixed, the zero router computed anew in every resample; after ±:
standard deviation over the repeats.  *In hindsight* means chosen on the evaluated outcomes themselves; the row RandomMixture
is the zero router fitted out of fold, whose distance from 0 is the price of not having hindsight."""


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_QUERIES} queries a set, one repeat; prints only")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--output", type=Path, default=None, help="default docs/benchmarks/routers.rst after a whole run"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not DATA.is_dir():
        print("benchmarks/routers.py skipped: the shared routing sets are not here (../shared/data)")
        return
    parts = []
    repeats, draws = (1, 100) if options.quick else (options.repeats, DRAWS)
    for name in options.sets:
        try:
            part = SETS[name](DATA)
        except FileNotFoundError as error:
            print(f"{name} skipped: {error}")
            continue
        part = _fewer(part) if options.quick else part
        register(name, list(part.log.X))
        log = part.log
        about = f"{len(log):,} queries, {len(log.arms)} arms.  {part.about}"
        print(f"{part.title}: {about}", file=sys.stderr, flush=True)
        start = perf_counter()
        text = table(header(part), compare(part, name, repeats, draws))
        parts += [(part.title, about), ("", text)]
        print(f"  {perf_counter() - start:.0f} s in all", file=sys.stderr, flush=True)
    text = page(
        "Routers",
        "``python benchmarks/routers.py``",
        f"{ABOUT}\n\n{repeats} repeats, {draws} resamples.  {machine()}",
        *parts,
    )
    print(text)
    whole = not options.quick and tuple(options.sets) == tuple(SETS)
    if options.output or whole:
        (options.output or DOCS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
