"""Our routers beside RouteLLM's matrix factorisation and LLMRouter's kNN, SVM and MLP, in one run on the same embeddings.

Prints the tables of docs/benchmarks/router_peers.rst and writes them after a whole run:

    python benchmarks/router_peers.py [--quick] [--sets mmlu gsm8k …] [--output FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from cached_features import TextSet
from peer_routers import KINDS, factorization_peer, quiet, sources, vote_peer
from routing_sets import DATA, SETS, RoutingSet
from side_by_side import interleaved, machine, page, table
from sklearn.linear_model import Ridge

from defer import OutcomeLog
from defer.estimators import KNNRouter, MatrixFactorizationRouter, QualityRouter, SoftLabelRouter, StackedRouter
from defer.estimators.embeddings import local_model
from defer.evaluation.frontier import Resweep
from defer.evaluation.two_arm import apgr, strong_share_curve
from defer.portfolios.splitting import query_groups
from defer.portfolios.zero_router import area_over_zero

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "router_peers.rst"
TRIED = ("mmlu", "gsm8k", "routerbench", "leaderboard_bbh", "bfcl")
FOLDS, POINTS, MOST_QUERIES = 3, 60, 3000
FIT_QUERIES, NOISE, SVM_SECONDS = 20_000, 0.005, 150.0

Floats = np.ndarray
Predicted = tuple[Floats, Floats]

OURS: dict[str, Callable[[], Any]] = {
    "KNNRouter": KNNRouter,
    "StackedRouter": StackedRouter,
    "SoftLabelRouter": lambda: SoftLabelRouter("mlp", random_state=0),
    "MatrixFactorizationRouter": MatrixFactorizationRouter,
    "QualityRouter(Ridge)": lambda: QualityRouter(Ridge(alpha=3.0)),
}
COUNTERPART = {"kNN": "KNNRouter", "SVM": "StackedRouter", "MLP": "SoftLabelRouter", "MF": "MatrixFactorizationRouter"}
RULES = {"to the cheapest": "cost", "to the best": "quality"}


@dataclass(frozen=True)
class Problem:
    """A routing set as numbers.

    Attributes
    ----------
    X : array of shape (n, d)
        Sentence embeddings.
    quality, cost : arrays of shape (n, m)
    groups : int array of shape (n,)
        Equal texts.
    """

    X: Floats
    quality: Floats
    cost: Floats
    groups: Floats

    @classmethod
    def of(cls, log: OutcomeLog) -> Problem:
        """Embed a log."""
        texts = TextSet(list(log.X))
        X = texts.embeddings()[texts.rows(list(log.X))]
        return cls(X, np.asarray(log.quality), np.asarray(log.cost), query_groups(log))

    def rows(self, picked: Floats) -> Problem:
        """Some of the queries."""
        return Problem(self.X[picked], self.quality[picked], self.cost[picked], self.groups[picked])

    def pair(self) -> Problem:
        """Two arms as RouteLLM has them: the best one, and the best of those at a tenth of its cost, else the cheapest."""
        quality, cost = self.quality.mean(axis=0), self.cost.mean(axis=0)
        strong = int(quality.argmax())
        cheap = np.flatnonzero(cost <= cost[strong] / 10.0)
        weak = int(cheap[quality[cheap].argmax()]) if len(cheap) else int(cost.argmin())
        arms = [weak, strong]
        return Problem(self.X, self.quality[:, arms], np.tile([0.0, 1.0], (len(self.X), 1)), self.groups)

    def order(self, rule: str) -> Floats:
        """Arms in the order in which a tie goes to them."""
        return np.argsort(self.cost.mean(axis=0) if rule == "cost" else -self.quality.mean(axis=0), kind="stable")


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


def resampled(problem: Problem, n: int) -> Problem:
    """As many queries as wanted: rows drawn again with their outcomes, embeddings moved a little."""
    rng = np.random.default_rng(2)
    found = problem.rows(rng.integers(len(problem.X), size=n))
    X = found.X + rng.normal(scale=NOISE, size=found.X.shape).astype(found.X.dtype)
    return Problem(X, found.quality, found.cost, np.arange(n))


def speed(problem: Problem, n: int, asked: int, svm_seconds: float) -> list[tuple[str, str]]:
    """Seconds of fits, and milliseconds a query, at n training queries."""
    train, test = resampled(problem, n), problem.rows(np.random.default_rng(3).permutation(len(problem.X))[:asked])
    order, pair = train.order("cost"), train.pair()
    ours: dict[str, Any] = {name: make() for name, make in OURS.items()}
    fits = {
        name: lambda router=router: router.fit(train.X, train.quality, cost=train.cost) for name, router in ours.items()
    }
    seconds = {
        name: float(np.median(times))
        for name, times in interleaved(fits, repeats=2, once=["StackedRouter", "SoftLabelRouter"]).items()
    }
    peers: dict[str, Any] = {}
    how: dict[str, str] = {}
    for kind in (*KINDS, "MF"):
        if kind == "MF":
            peers[kind] = factorization_peer()
            peers[kind].prepare(pair.X, pair.quality)
            seconds[kind], how[kind] = timed(peers[kind].train), "measured"
        elif kind == "SVM":
            peers[kind], seconds[kind], how[kind] = svm(train, order, svm_seconds)
        else:
            peers[kind] = vote_peer(kind)
            peers[kind].prepare(train.X, train.quality, order)
            seconds[kind], how[kind] = timed(peers[kind].train), "measured"
        peers[kind].register(test.X)
        said(f"{kind} fitted: {seconds[kind]:.1f} s, {how[kind]}")
    fit_rows = [[f"{kind}: peer", f"{seconds[kind]:.2f}", how[kind], "1"] for kind in peers]
    for name in ours:
        ratios = "; ".join(f"{kind} {seconds[kind] / seconds[name]:.1f}" for kind in peers)
        fit_rows.append([name, f"{seconds[name]:.2f}", "measured", ratios])
    fit = table(["router", "seconds", "how", "times faster than the peer"], fit_rows)
    return [
        (f"Fit at {n:,} queries (target: at least 20 times faster than the SVM)", fit),
        (f"Time per query at {n:,} training queries (target: at least 10 times less than kNN)", route_times(peers, ours, test)),
    ]  # fmt: skip


def route_times(peers: dict[str, Any], ours: dict[str, Any], test: Problem) -> str:
    """Milliseconds a query: one by one, in blocks that take turns, and all at once."""
    n, block = len(test.X), 20

    def asked(ask: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [ask(row) for row in range(block)]

    runs: dict[str, Callable[[], object]] = {}
    for kind, peer in peers.items():
        runs[f"{kind}, whole"] = asked(peer.one)
        if kind in KINDS:
            runs[f"{kind}, model"] = asked(peer.model_one)
    for name, router in ours.items():
        runs[name] = asked(lambda row, router=router: router.predict(test.X[row : row + 1]))
    with quiet():
        blocks = interleaved(runs, repeats=7)
        one = {name: 1e3 * float(np.median(times)) / block for name, times in blocks.items()}
        batches = {name: lambda router=router: router.predict(test.X) for name, router in ours.items()}
        batches |= {kind: lambda peer=peers[kind]: peer.shares(test.X) for kind in KINDS}
        batch = {name: 1e3 * float(np.median(times)) / n for name, times in interleaved(batches, repeats=3).items()}
    rows = []
    for kind in peers:
        name = COUNTERPART[kind]
        held, loop = one.get(f"{kind}, model"), one.get(f"{kind}, model", one[f"{kind}, whole"])
        rows.append([
            kind,
            f"{one[f'{kind}, whole']:.2f}",
            "–" if held is None else f"{held:.2f}",
            f"{batch[kind]:.4f}" if kind in batch else "–",
            f"{name}: {one[name]:.3f}",
            f"{batch[name]:.4f}",
            f"{one[f'{kind}, whole'] / one[name]:.1f}",
            "–" if held is None else f"{held / one[name]:.1f}",
            f"{loop / batch[name]:.0f}",
        ])  # fmt: skip
    header = [
        "peer", "one by one, whole way, ms", "one by one, model in memory, ms", "its model, one call, ms", "ours, one by one, ms",
        "ours, one call, ms", "ratio, whole way", "ratio, model in memory", "ratio, log of queries",
    ]  # fmt: skip
    return table(header, rows)


def svm(train: Problem, order: Floats, limit: float) -> tuple[Any, float, str]:
    """Fits of the SVM to ever more queries while the next one ends in time, and what the last says of all of them."""
    n, seconds, power = len(train.X), 0.0, 3.0
    size = n // 8
    while True:
        rows, peer, before = train.rows(np.arange(size)), vote_peer("SVM"), seconds
        peer.prepare(rows.X, rows.quality, order)
        seconds = timed(peer.train)
        said(f"SVM at {size:,}: {seconds:.1f} s")
        if size == n:
            return peer, seconds, "measured"
        power = float(np.log2(seconds / before)) if before else power
        if seconds * 2.0**power > limit:
            break
        size = min(2 * size, n)
    how = f"at least: {seconds:.1f} s measured at {size:,}, and time grows faster than the square (there with the power {power:.1f})"
    return peer, seconds * (n / size) ** 2, how


def timed(run: Callable[[], object]) -> float:
    """Seconds of a run that prints nothing."""
    start = perf_counter()
    with quiet():
        run()
    return perf_counter() - start


def said(text: str) -> None:
    """Progress, beside the page."""
    print(f"  {text}", file=sys.stderr, flush=True)


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

ABOUT_SPEED = f"""MMLU's queries drawn with replacement with their outcomes, every embedding moved by normal noise of standard
deviation {NOISE} a coordinate (a length of about {NOISE * 384**0.5:.2f} beside 1); labels cheapest first.  *Whole way*: the peer's own
function for one query, its embedding looked up; LLMRouter's reads its model from the disk for every query.  *Model in memory*:
``predict`` of the model that it holds.  *Log of queries*: the peer's way through a batch, which is one ``predict`` after the other,
over ours in one call.  Ours one by one is ``router.predict`` of one row with all its checks.  Embedding takes the same time for all
and is in no number.  The SVM is fitted to 1/8, 1/4, 1/2 and all of the queries as long as the next fit should end in
{SVM_SECONDS:.0f} s; where it should not, the last is multiplied by the square of the ratio, which is less than it takes."""


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
    times = speed(mmlu, 1000 if options.quick else FIT_QUERIES, 200 if options.quick else 1000, SVM_SECONDS)
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
