"""Our routers beside RouteLLM's matrix factorisation and LLMRouter's kNN, SVM and MLP, in one run on the same embeddings.

Prints the tables of docs/benchmarks/router_peers.rst and writes them after a whole run:

    python benchmarks/router_peers.py [--quick] [--sets mmlu gsm8k …] [--output FILE]
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from peer_routers import KINDS, factorization_peer, sources, vote_peer
from router_peer_sets import COUNTERPART, OURS, Problem
from router_peer_times import ABOUT_SPEED, FIT_QUERIES, said, speed
from routing_sets import DATA, SETS, RoutingSet
from side_by_side import machine, page, table

from defer.estimators.embeddings import local_model
from defer.evaluation.frontier import Resweep
from defer.evaluation.two_arm import apgr, strong_share_curve
from defer.portfolios.zero_router import area_over_zero

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "router_peers.rst"
TRIED = ("mmlu", "gsm8k", "routerbench", "leaderboard_bbh", "bfcl")
FOLDS, POINTS, MOST_QUERIES = 3, 60, 3000

Floats = np.ndarray
Predicted = tuple[Floats, Floats]

RULES = {"to the cheapest": "cost", "to the best": "quality"}


def out_of_fold(problem: Problem, predict: Callable[[Problem, Problem], Predicted]) -> Predicted:
    """Predicted quality and cost of every query by a router that saw neither it nor an equal text."""
    codes = np.unique(problem.groups, return_inverse=True)[1]
    fold = (np.random.default_rng(0).permutation(codes.max() + 1) % FOLDS)[codes]
    quality, cost = np.empty(problem.quality.shape), np.empty(problem.quality.shape)
    for part in range(FOLDS):
        held = fold == part
        quality[held], cost[held] = predict(problem.rows(~held), problem.rows(held))
    return quality, cost


def by_ours(make: Callable[[], Any]) -> Callable[[Problem, Problem], Predicted]:
    """Fit and predict with a router of this library."""

    def predict(train: Problem, test: Problem) -> Predicted:
        routing = make().fit(train.X, train.quality, cost=train.cost).route(test.X)
        return routing.predicted_quality, routing.predicted_cost

    return predict


def by_votes(kind: str, rule: str) -> Callable[[Problem, Problem], Predicted]:
    """Fit and predict with LLMRouter's; the share of votes stands for quality, the mean over training queries for cost."""

    def predict(train: Problem, test: Problem) -> Predicted:
        share = vote_peer(kind).fit(train.X, train.quality, train.order(rule)).shares(test.X)
        return share, np.tile(train.cost.mean(axis=0), (len(share), 1))

    return predict


def by_factorization(train: Problem, test: Problem) -> Predicted:
    """Fit and predict with RouteLLM's matrix factorisation."""
    share = factorization_peer().fit(train.X, train.quality).shares(test.X)
    return share, np.tile(train.cost.mean(axis=0), (len(share), 1))


class Judge:
    """Measures of predictions on the data (first) and on resamples of groups of equal texts, the same for every router."""

    def __init__(self, problem: Problem, draws: int) -> None:
        self.quality, self.cost = problem.quality, problem.cost
        codes = np.unique(problem.groups, return_inverse=True)[1]
        rng, count = np.random.default_rng(1), codes.max() + 1
        resamples = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)[:, codes]
        self.weights = np.concatenate([np.ones((1, len(codes)), dtype=np.int64), resamples])
        self.share = self.weights / self.weights.sum(axis=1, keepdims=True)
        self.two_arms = self.quality.shape[1] == 2 and bool(np.isin(self.cost, (0.0, 1.0)).all())

    def points(self, predicted: Predicted) -> list[Predicted]:
        """Operating points (cost, quality) on every resample."""
        sweep = Resweep(*predicted, self.quality, self.cost)
        return [sweep.points(weight.astype(float), n_points=POINTS) for weight in self.weights]

    def area(self, predicted: Predicted, points: list[Predicted]) -> Floats:
        """APGR with two arms, else area over the zero router."""
        if not self.two_arms:
            arms = zip(self.share @ self.cost, self.share @ self.quality, strict=True)
            return np.array([area_over_zero(*curve, *arm) for curve, arm in zip(points, arms, strict=True)])
        weak, strong = np.argsort(self.cost.mean(axis=0))
        score, found = predicted[0][:, strong] - predicted[0][:, weak], []
        for weight in self.weights:
            rows = np.repeat(np.arange(len(score)), weight)
            low, high = self.quality[rows, weak], self.quality[rows, strong]
            enough = high.mean() > low.mean()
            found.append(apgr(*strong_share_curve(score[rows], low, high)) if enough else np.nan)
        return np.array(found)

    def plain(self, predicted: Predicted) -> Predicted:
        """Cost and quality of the arm of highest predicted quality, ties to the cheaper arm."""
        best = predicted[0] >= predicted[0].max(axis=1, keepdims=True) - 1e-12
        arm, rows = np.where(best, predicted[1], np.inf).argmin(axis=1), np.arange(len(best))
        return self.share @ self.cost[rows, arm], self.share @ self.quality[rows, arm]

    def at_cost(self, points: list[Predicted], cost: Floats) -> Floats:
        """Quality where the curve reaches a cost, mixing the two points beside it."""
        found = []
        for (spent, quality), wanted in zip(points, cost, strict=True):
            order = np.argsort(spent, kind="stable")
            found.append(np.interp(wanted, spent[order], quality[order]))
        return np.array(found)


class Cells:
    """Cells of a set's table, with the verdict on each."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.verdicts: dict[tuple[str, str], Counter[str]] = {}

    def add(self, label: list[str], theirs: Floats, ours: Floats, stacked: Floats) -> None:
        """Compare on the data and on the resamples."""
        row = [*label, f"{theirs[0]:.4f}", f"{ours[0]:.4f}"]
        for name, values in (("counterpart", ours), ("StackedRouter", stacked)):
            # Sums in another order differ in the last digits.
            gap = np.round(values - theirs, 9)
            low, high = np.nanquantile(gap[1:], [0.025, 0.975])
            verdict = "better" if low > 0 else "worse" if high < 0 else "no worse" if gap[0] >= 0 else "open"
            self.verdicts.setdefault((label[0], name), Counter())[verdict] += 1
            row.append(f"{gap[0]:+.4f} ({low:+.4f} … {high:+.4f}), {verdict}")
        self.rows.append(row)


HEADER = ["peer", "ties in its labels", "measure", "peer", "counterpart", "counterpart − peer", "StackedRouter − peer"]


def compare(problem: Problem, draws: int, cells: Cells) -> None:
    """All cells of one set."""
    judge = Judge(problem, draws)
    predicted = {
        name: out_of_fold(problem, by_ours(OURS[name]))
        for name in set(COUNTERPART.values()) - {"MatrixFactorizationRouter"}
    }
    points = {name: judge.points(found) for name, found in predicted.items()}
    area = "APGR" if judge.two_arms else "area over zero router"
    areas = {name: judge.area(predicted[name], points[name]) for name in predicted}
    free = {name: judge.plain(found)[1] for name, found in predicted.items()}
    for kind in KINDS:
        for rule, by in RULES.items():
            start = perf_counter()
            theirs = out_of_fold(problem, by_votes(kind, by))
            said(f"{kind}, ties {rule}: {perf_counter() - start:.1f} s")
            cost, quality = judge.plain(theirs)
            ours = COUNTERPART[kind]
            cells.add([kind, rule, area], judge.area(theirs, judge.points(theirs)), areas[ours], areas["StackedRouter"])
            cells.add([kind, rule, "quality, no limit"], quality, free[ours], free["StackedRouter"])
            held = [judge.at_cost(points[name], cost) for name in (ours, "StackedRouter")]
            cells.add([kind, rule, "quality at the peer's cost"], quality, *held)


def compare_pair(problem: Problem, draws: int, cells: Cells) -> None:
    """Cells of matrix factorisation, on two arms."""
    problem = problem.pair()
    judge = Judge(problem, draws)
    start = perf_counter()
    theirs = out_of_fold(problem, by_factorization)
    said(f"MF: {perf_counter() - start:.1f} s")
    ours = [out_of_fold(problem, by_ours(OURS[name])) for name in (COUNTERPART["MF"], "StackedRouter")]
    label = ["MF, two arms", "left out"]
    points = [judge.points(found) for found in ours]
    cells.add([*label, "APGR"], *[judge.area(found, []) for found in (theirs, *ours)])
    cells.add([*label, "quality, no limit"], *[judge.plain(found)[1] for found in (theirs, *ours)])
    cost, quality = judge.plain(theirs)
    cells.add([*label, "quality at the peer's cost"], quality, *[judge.at_cost(found, cost) for found in points])


ABOUT = f"""All routers see the same sentence embeddings (all-MiniLM-L6-v2, 384 numbers) and nothing else; {FOLDS}-fold
cross-validation in which equal texts stay together, measures of the pooled out-of-fold predictions, differences with 95%
percentile bootstrap intervals over groups of equal texts, paired.  Sets of more than {MOST_QUERIES:,} queries are cut to a random
{MOST_QUERIES:,}, because the SVM's time grows faster than their square.

**Peers.**  LLMRouter 0.4.0's kNN (5 neighbours, Euclidean), SVM (RBF, C = 1, ``probability``) and MLP (128 and 64, 100 epochs of
Adam) classify the best arm of a query.  The label of a query on which several arms are equally good is the arm that is listed
first; both orders are run, cheapest first and best first, because each favours the peer in another measure.  They know no price:
the share of votes is read as quality, so that they have a curve at all.  RouteLLM 0.2.0's matrix factorisation (128
dimensions, 100 epochs) knows a strong and a weak arm and drops ties; on sets of more arms the best arm is the strong one, and the best of those
at no more than a tenth of its cost the weak one, for both sides.  The values of the packages' documented configurations are used;
none is tuned, and neither are ours.

**Counterparts**, named beforehand: {", ".join(f"{name} for {kind}" for kind, name in COUNTERPART.items())}; StackedRouter, of which
``defer.router("auto")`` is made, is shown beside every peer.  *quality, no limit*: every query takes the arm of highest predicted
quality.  *quality at the peer's cost*: ours where its curve has the cost of the peer's plain decisions.  *APGR* is for two arms
and shares of calls.  A cell is *better* or *worse* where the interval excludes 0, else *no worse* where the difference is not
negative, and *open* where it is."""


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 queries a set, 1,000 in the timings; prints only")
    parser.add_argument("--sets", nargs="+", choices=TRIED, default=TRIED)
    parser.add_argument(
        "--output", type=Path, default=None, help=f"default docs/benchmarks/{DOCS.name} after a whole run"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not DATA.is_dir() or local_model() is None:
        print(
            "benchmarks/router_peers.py skipped: needs the shared routing sets (../shared/data) and a sentence-embedding model"
        )
        return
    draws, most = (100, 200) if options.quick else (500, MOST_QUERIES)
    parts, every = [], Cells()
    for name in options.sets:
        part: RoutingSet = SETS[name](DATA)
        said(f"{part.title}, {len(part.log):,} queries, {len(part.log.arms)} arms")
        problem = Problem.of(part.log)
        kept = problem.rows(np.sort(np.random.default_rng(0).permutation(len(problem.X))[:most]))
        cells = Cells()
        compare(kept, draws, cells)
        compare_pair(kept, draws, cells)
        for row in cells.rows:
            said(" | ".join(row))
        for whose, verdicts in cells.verdicts.items():
            every.verdicts.setdefault(whose, Counter()).update(verdicts)
        parts += [(part.title, f"{len(kept.X):,} queries, {len(part.log.arms)} arms."), ("", table(HEADER, cells.rows))]
    names = ("better", "no worse", "open", "worse")
    found = {
        (peer, COUNTERPART[peer[:3].rstrip(",")] if whose == "counterpart" else whose): [
            str(count[name]) for name in names
        ]
        for (peer, whose), count in every.verdicts.items()
    }
    counts = [[*label, *values] for label, values in found.items()]
    summary = table(["cells against", "ours", *names], counts)
    mmlu = Problem.of(SETS["mmlu"](DATA).log)
    times = speed(mmlu, 1000 if options.quick else FIT_QUERIES, 200 if options.quick else 1000)
    ran = "; ".join(f"{name} by {how}" for name, how in sources().items())
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    text = page(
        "Routers beside RouteLLM and LLMRouter",
        "``python benchmarks/router_peers.py``",
        f"{ABOUT}\n\n{ran}.  {draws} resamples.  {machine()}  {threads} thread(s).",
        ("Summary", summary),
        ("Times", ABOUT_SPEED),
        *times,
        *parts,
    )
    print(text)
    if options.output or (not options.quick and tuple(options.sets) == TRIED):
        (options.output or DOCS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
