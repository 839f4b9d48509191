"""Every router on every shared routing set, by repeated grouped cross-validation and with whole domains held out.

After a whole run it writes docs/benchmarks/routers.rst and the pictures beside it; else it prints the page:

    python benchmarks/routers.py [--quick] [--neural] [--sets mmlu routerbench …] [--repeats 3] [--stack-repeats 1] [--kept]

Results of fits are kept in the environment, so that an interrupted run goes on and a router is fitted anew only where its
source or its data changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import numpy as np
from joblib import Parallel, delayed
from router_candidates import Candidate, candidates, why_skipped
from router_judge import Judge
from router_page import write
from router_runs import (
    DOMAIN_FOLDS,
    FOLDS,
    QUICK_QUERIES,
    Fold,
    Result,
    feature_seconds,
    fold_of,
    load,
    result,
    run_fold,
)
from router_tables import SetResult
from routing_sets import DATA, SETS

from defer.estimators.embeddings import local_model
from defer.evaluation.frontier import aiq

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
DRAWS, WHOLE = 500, 10**9
# Sets of more queries than this vary little between repeats, and have one fewer.
MANY_QUERIES = 3000
# The encoder and the causal language model are trained on a set of this size alone.
NEURAL_SET = "gsm8k"


def folds(name: str, most: int, repeats: int) -> tuple[list[Fold], list[Fold]]:
    """Folds of the repeats, and those of whole domains."""
    log = load(name, most).log
    if len(log) > MANY_QUERIES:
        repeats = max(repeats - 1, 1)
    crossed = [Fold(name, False, seed, part, most) for seed in range(repeats) for part in range(FOLDS)]
    domain = log.domain
    n_domains = 0 if domain is None else len(np.unique(np.asarray(domain).astype(str)))
    return crossed, [Fold(name, True, 0, part, most) for part in range(min(DOMAIN_FOLDS, n_domains))]


def pooled(folds: Iterable[Fold], candidate: Candidate) -> tuple[tuple[np.ndarray, np.ndarray], list[Result]] | str:
    """Predictions of every query by a router that did not see it, and the results they are from; or what went wrong."""
    folds = list(folds)
    part = load(folds[0].name, folds[0].most)
    quality, cost = np.full(part.log.quality.shape, np.nan), np.full(part.log.quality.shape, np.nan)
    held = held_out(folds[0])
    found = []
    for fold in folds:
        one = result(fold, candidate)
        if one is None or one.error:
            return "not run" if one is None else f"failed: {one.error}"
        quality[held == fold.part], cost[held == fold.part] = one.quality, one.cost
        found.append(one)
    return (quality, cost), found


def held_out(fold: Fold) -> np.ndarray:
    """Number of the fold of every query."""
    return fold_of(load(fold.name, fold.most), by_domain=fold.by_domain, seed=fold.seed)


def judged(name: str, groups: list[list[Fold]], draws: int, *, neural: bool) -> SetResult:
    """Measures of every router on a set, from kept results; `groups` are the folds of each repeat."""
    part = load(name, groups[0][0].most)
    judge, anew = Judge(part, draws), feature_seconds(part)
    measures, why, seconds, sizes, fallback = {}, {}, {}, {}, {}
    for candidate in candidates(part, neural=neural):
        reason = why_skipped(candidate, part)
        runs = [reason or pooled(group, candidate) for group in groups]
        # A router may have been fitted in fewer repeats; one that failed in any of them has no measures.
        wrong = [run for run in runs if isinstance(run, str) and run != "not run"]
        runs = [run for run in runs if not isinstance(run, str)]
        if wrong or not runs:
            why[candidate.name] = wrong[0] if wrong else "not run"
            continue
        one_point = candidate.name.startswith("SingleArm")
        measures[candidate.name] = judge.measure([run[0] for run in runs], one_point=one_point)
        found = [one for run in runs for one in run[1]]
        fit, route = (float(np.median([getattr(one, key) for one in found])) for key in ("fit_s", "route_s"))
        needs = candidate.features if candidate.name not in ("SingleArm, fitted", "RandomMixture, fitted") else None
        whole = route if needs is None or candidate.is_neural else route + anew[needs]
        seconds[candidate.name], sizes[candidate.name] = (fit, route, whole), max(one.size for one in found)
        fallback[candidate.name] = float(np.mean([one.fallback for one in found]))
    zero_aiq = aiq(judge.arm_cost[0], judge.arm_quality[0])
    chosen = {title: judge.chosen(arm) for title, arm in part.choices.items()}
    return SetResult(
        name, part, measures, why, judge.references()["oracle, in hindsight"], judge.best, zero_aiq, chosen, seconds,
        sizes, fallback,
    )  # fmt: skip


def main() -> None:
    """Read the command line, run, judge, and write or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_QUERIES} queries a set, one repeat; prints only")
    parser.add_argument(
        "--neural", action="store_true", help=f"also train an encoder and a language model on {NEURAL_SET}"
    )
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stack-repeats", type=int, default=1, help="of the stacks, which take longest to fit")
    parser.add_argument("--kept", action="store_true", help="fit nothing: take the results that are kept")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None, help="folder; default docs/benchmarks after a whole run")
    options = parser.parse_args()
    if not DATA.is_dir():
        print("benchmarks/routers.py skipped: the shared routing sets are not here (../shared/data)")
        return
    if local_model() is None:
        print("benchmarks/routers.py skipped: it needs a sentence-embedding model; see benchmarks/requirements.txt")
        return
    start = perf_counter()
    most, repeats, draws = (QUICK_QUERIES, 1, 100) if options.quick else (WHOLE, options.repeats, DRAWS)
    planned = {name: folds(name, most, repeats) for name in options.sets}
    stack_repeats = min(options.stack_repeats, repeats)
    pool = Parallel(n_jobs=options.processes, batch_size=1, pre_dispatch=options.processes)
    if not options.kept:
        pool(
            delayed(run_fold)(fold, stacks=stacks, neural=options.neural and _is_neural(fold))
            for name, pair in planned.items()
            for stacks in (False, True)
            for fold in [*pair[0], *pair[1]]
            if not stacks or fold.seed < stack_repeats
        )
    print(f"fitted after {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    crossed = pool(
        delayed(judged)(name, _repeats(pair[0]), draws, neural=options.neural and name == NEURAL_SET)
        for name, pair in planned.items()
    )
    domains = pool(delayed(judged)(name, [pair[1]], draws, neural=False) for name, pair in planned.items() if pair[1])
    print(f"judged after {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    whole = not options.quick and tuple(options.sets) == tuple(SETS)
    folder = options.output or (DOCS if whole else None)
    text = write(crossed, domains, folder, repeats=repeats, stack_repeats=stack_repeats, draws=draws, many=MANY_QUERIES)
    if folder is None:
        print(text)
    print(f"done after {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def _is_neural(fold: Fold) -> bool:
    """Whether networks of text are trained on a fold: minutes each, so in one repeat."""
    return fold.name == NEURAL_SET and fold.seed == 0 and not fold.by_domain


def _repeats(folds: list[Fold]) -> list[list[Fold]]:
    return [[fold for fold in folds if fold.seed == seed] for seed in sorted({fold.seed for fold in folds})]


if __name__ == "__main__":
    main()
