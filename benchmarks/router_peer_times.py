"""Seconds of fits and milliseconds a query, of our routers and of their peers in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from peer_routers import KINDS, factorization_peer, quiet, vote_peer
from router_peer_sets import COUNTERPART, OURS, Problem
from side_by_side import interleaved, table

__all__ = ["ABOUT_SPEED", "FIT_QUERIES", "said", "speed"]

FIT_QUERIES, NOISE, SVM_SECONDS = 20_000, 0.005, 150.0

Floats = np.ndarray

ABOUT_SPEED = f"""MMLU's queries drawn with replacement with their outcomes, every embedding moved by normal noise of standard
deviation {NOISE} a coordinate (a length of about {NOISE * 384**0.5:.2f} beside 1); labels cheapest first.  *Whole way*: the peer's own
function for one query, its embedding looked up; LLMRouter's reads its model from the disk for every query.  *Model in memory*:
``predict`` of the model that it holds.  *Log of queries*: the peer's way through a batch, which is one ``predict`` after the other,
over ours in one call.  Ours one by one is ``router.predict`` of one row with all its checks.  Embedding takes the same time for all
and is in no number.  The SVM is fitted to 1/8, 1/4, 1/2 and all of the queries as long as the next fit should end in
{SVM_SECONDS:.0f} s; where it should not, the last is multiplied by the square of the ratio, which is less than it takes."""


def resampled(problem: Problem, n: int) -> Problem:
    """As many queries as wanted: rows drawn again with their outcomes, embeddings moved a little."""
    rng = np.random.default_rng(2)
    found = problem.rows(rng.integers(len(problem.X), size=n))
    X = found.X + rng.normal(scale=NOISE, size=found.X.shape).astype(found.X.dtype)
    return Problem(X, found.quality, found.cost, np.arange(n))


def speed(problem: Problem, n: int, asked: int) -> list[tuple[str, str]]:
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
            peers[kind], seconds[kind], how[kind] = svm(train, order, SVM_SECONDS)
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
