"""Learning to defer on logged data: every method against Chow's rule, random deferral, the best single arm and the oracle.

Prints one table per set and, after a whole run, writes docs/benchmarks/deferral.rst:

    python benchmarks/deferral.py [--quick] [--sets cifar10h quizbowl …] [--splits 5] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from deferral_methods import ALPHAS, CHOW, STRENGTHS, Candidate, candidates
from deferral_problem import LEAST_ANSWERS, DeferralSet, outcomes
from deferral_sets import ASKING, DATA, DEFAULTS, SETS
from deferral_trial import LEAST_PROPENSITY, Taken, Trial
from numpy.typing import NDArray
from side_by_side import machine, page, table

from defer.evaluation.deferral import deferral_curve, oracle_deferral_curve
from defer.evaluation.intervals import Interval, mean_interval
from defer.exceptions import DeferError

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "deferral.rst"
SPLITS, MOST_ROWS, QUICK_ROWS, LEVEL = 5, 8000, 800, 0.95
RIVALS = {"chow": "Chow", "single": "the best single arm", "random": "random deferral at its own rate"}


@dataclass(frozen=True)
class Result:
    """One method on one set: utility, its difference to each of `RIVALS`, and what there is beside."""

    name: str
    utility: Interval
    difference: dict[str, Interval]
    spread: float
    deferred: float
    area: tuple[float, float]

    def sign(self, rival: str) -> int:
        """1 or -1 where the interval of the difference lies on one side of 0, else 0."""
        interval = self.difference[rival]
        return int(interval.low > 0) - int(interval.high < 0)


class Judge:
    """All splits of one set; per-row differences are pooled over them, the rows of a group being one cluster."""

    def __init__(self, part: DeferralSet, n_splits: int) -> None:
        self.part = part
        self.trials = [Trial(part, seed) for seed in range(n_splits)]
        self.cluster = np.concatenate([clusters(part)[trial.test] for trial in self.trials])
        found = [trial.references() for trial in self.trials]
        self.references = {name: [each[name] for each in found] for name in found[0]}
        self.failed: dict[str, str] = {}
        self.chow = self.references["own"]

    def results(self) -> list[Result]:
        """Of every method that could be fitted, Chow first."""
        found = []
        for candidate in candidates(self.part):
            start = perf_counter()
            runs = self._runs(candidate)
            if runs is None:
                print(f"  {candidate.name}: {self.failed[candidate.name]}", file=sys.stderr, flush=True)
                continue
            self.chow = runs if candidate.name == CHOW else self.chow
            found.append(self.result(candidate.name, runs))
            line = f"{perf_counter() - start:6.1f} s  {candidate.name}: {found[-1].utility}, less Chow {found[-1].difference['chow']}"
            print(f"  {line}", file=sys.stderr, flush=True)
        return found

    def result(self, name: str, runs: Sequence[Taken]) -> Result:
        """Intervals of what one method did in every split."""
        utility = [run.utility for run in runs]
        chow, single = ([run.utility for run in each] for each in (self.chow, self.references["single"]))
        rival = {"chow": chow, "single": single, "random": [run.random for run in runs]}
        by_split = [(own - other).mean() for own, other in zip(utility, chow, strict=True)]
        area = np.array([run.area for run in runs])
        return Result(
            name,
            self._interval(utility),
            {
                key: self._interval([own - other for own, other in zip(utility, values, strict=True)])
                for key, values in rival.items()
            },
            float(np.std(by_split, ddof=1)) if len(runs) > 1 else float("nan"),
            float(np.concatenate([run.deferred for run in runs]).mean()),
            (float(area.mean()), float(area.std(ddof=1)) if len(runs) > 1 else float("nan")),
        )

    def random_at_chow(self) -> list[Taken]:
        """Random deferral as often as Chow defers."""
        return [Taken(run.random, run.deferred, run.random) for run in self.chow]

    def single_names(self) -> str:
        """Which arm was the best single one on the training rows, and in how many splits."""
        count = Counter(self.part.arms[trial.order[0]] for trial in self.trials)
        return ", ".join(f"{name} in {times} of {len(self.trials)} splits" for name, times in count.most_common())

    def _runs(self, candidate: Candidate) -> list[Taken] | None:
        try:
            return [trial.run(candidate) for trial in self.trials]
        except DeferError as error:
            self.failed[candidate.name] = f"{type(error).__name__}: {error}"
            return None

    def _interval(self, terms: Sequence[NDArray[np.float64]]) -> Interval:
        return mean_interval(np.concatenate(terms), self.cluster, LEVEL)


def clusters(part: DeferralSet) -> NDArray[np.intp]:
    """Number of the group of every row; without groups each row is one."""
    return np.arange(len(part)) if part.groups is None else np.unique(part.groups, return_inverse=True)[1].ravel()


def fewer(part: DeferralSet, most: int) -> DeferralSet:
    """At most about `most` rows, whole groups of them drawn with seed 0."""
    if len(part) <= most:
        return part
    group = clusters(part)
    place = np.random.default_rng(0).permutation(group.max() + 1)[group]
    return part.select(np.sort(np.argsort(place, kind="stable")[:most]))


def rows(judge: Judge, results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a set's table: references, then methods."""
    has_area = bool(np.isfinite(results[0].area[0]))
    header = ["", "utility", "less Chow", "less best single arm", "less random at its rate", "deferred"]
    first = {
        "own answers alone": "own", "best single arm, on the training rows": "single", "random deferral at the rate of Chow": "",
        "oracle, in hindsight": "oracle",
    }  # fmt: skip
    lines = []
    for name, key in first.items():
        found = judge.result(name, judge.references[key] if key else judge.random_at_chow())
        area = _reference_area(judge, key) if has_area else ""
        lines.append(_row(found, has_area, area, blank={"": ("random",), "single": ("single",)}.get(key, ())))
    lines += [_row(result, has_area, "", ("chow",) if result.name == CHOW else ()) for result in results]
    lines += [[name, "not fitted", *["–"] * (len(header) - 2 + has_area)] for name in judge.failed]
    return [*header, *(["AUC-DF"] if has_area else [])], lines


def _row(result: Result, has_area: bool, area: str, blank: Sequence[str]) -> list[str]:
    cells = [result.name, _text(result.utility, sign="")]
    for key in RIVALS:
        spread = f", ± {result.spread:.4f}" if key == "chow" else ""
        cells.append("–" if key in blank else f"{_text(result.difference[key])}{spread}")
    cells.append(f"{result.deferred:.3f}")
    if has_area:
        cells.append(area or f"{result.area[0]:.4f} ± {result.area[1]:.4f}")
    return cells


def _text(interval: Interval, sign: str = "+") -> str:
    return f"{interval.value:{sign}.4f} ({interval.low:{sign}.4f} … {interval.high:{sign}.4f})"


def _reference_area(judge: Judge, key: str) -> str:
    if key not in ("", "oracle"):
        return "–"
    sides = [trial.right.T for trial in judge.trials]
    if key:
        area = [oracle_deferral_curve(*side).area for side in sides]
    else:
        area = [deferral_curve(np.zeros(len(side[0])), *side).random_area for side in sides]
    return f"{np.mean(area):.4f} ± {np.std(area, ddof=1):.4f}"


def words(judge: Judge, results: Sequence[Result]) -> str:
    """What the table says, in sentences."""
    found = []
    for rival in ("chow", "single"):
        judged = [result for result in results if not (rival == "chow" and result.name == CHOW)]
        better, worse = ([each.name for each in judged if each.sign(rival) == sign] for sign in (1, -1))
        start = (
            "**No method beats" if not better else f"Against {RIVALS[rival]}, significantly better: {'; '.join(better)}"
        )
        text = f"{start} {RIVALS[rival]}** significantly" if not better else start
        text += f".  Worse: {'; '.join(worse)}" if worse else ".  None is worse"
        left = len(judged) - len(better) - len(worse)
        found.append(f"{text}.  Not told apart: {left} of {len(judged)}.")
    both = [result.name for result in results if min(result.sign("chow"), result.sign("single")) == 1]
    found.append(f"Above both: {'; '.join(both)}." if both else "No method is significantly above both.")
    top = max(results, key=lambda result: result.utility.value)
    oracle = np.concatenate([run.utility for run in judge.references["oracle"]]).mean()
    single = np.concatenate([run.utility for run in judge.references["single"]]).mean()
    gained = (top.utility.value - single) / (oracle - single)
    found.append(
        f"The highest utility is that of {top.name}, which is chosen in hindsight; of what the oracle has above the best single arm "
        f"it reaches {100 * gained:.0f}%."
    )
    return "  ".join(found)


def about(judge: Judge, size: int) -> str:
    """Own, experts, what is missing, prices, and the arms that references stand for."""
    part = judge.part
    known = np.isfinite(
        outcomes(part, part.y if part.kind == "answers" and part.own is None else None).to_numpy(dtype=float)
    )
    test = np.mean([len(trial.test) for trial in judge.trials])
    drawn = "" if len(part) == size else f", drawn with seed 0 from {size:,}"
    lines = [
        part.what,
        part.cost_note,
        f"{len(part):,} rows{drawn}, of which {test:,.0f} are tested in a split; {len(part.arms) - 1} "
        f"expert{'s' if len(part.arms) > 2 else ''}, {100 * (1 - known[:, 1:].mean()):.1f}% of the answers missing.",
        f"Best single arm on the training rows: {judge.single_names()}.",
    ]
    if not known[:, 0].all():
        lines.append(
            f"{100 * (1 - known[:, 0].mean()):.1f}% of the rows have no own answer and go to an expert whatever the method."
        )
    if part.own is not None:
        lines.append("MultiExpertDeferral learns an own answer from the logged one and its confidence.")
    return "  ".join(lines)


def compare(whole: DeferralSet, n_splits: int, most: int) -> tuple[list[tuple[str, str]], list[Result]]:
    """Parts of the page on one set, and the results behind them."""
    start = perf_counter()
    print(whole.name, file=sys.stderr, flush=True)
    judge = Judge(fewer(whole, most), n_splits)
    results = judge.results()
    print(f"  {perf_counter() - start:.0f} s in all", file=sys.stderr, flush=True)
    texts = (about(judge, len(whole)), words(judge, results), table(*rows(judge, results)))
    return [(whole.name if not index else "", text) for index, text in enumerate(texts)], results


def summary(found: dict[str, list[Result]]) -> str:
    """On how many sets each method is significantly better and worse than each rival, and what that amounts to."""
    names = list(dict.fromkeys(result.name for results in found.values() for result in results))
    by_name = {
        name: [result for results in found.values() for result in results if result.name == name] for name in names
    }
    header = ["method", "sets", *(f"{word} than {rival}" for rival in RIVALS.values() for word in ("better", "worse"))]
    lines = []
    for name, results in by_name.items():
        counts = [str(sum(each.sign(key) == sign for each in results)) for key in RIVALS for sign in (1, -1)]
        lines.append([name, str(len(results)), *(["–", "–", *counts[2:]] if name == CHOW else counts)])
    others = {name: results for name, results in by_name.items() if name != CHOW}
    text = []
    for key in ("chow", "single"):
        judged = others if key == "chow" else by_name
        signs = [result.sign(key) for results in judged.values() for result in results]
        never = [name for name, results in judged.items() if all(result.sign(key) < 1 for result in results)]
        text.append(
            f"Of {len(signs)} comparisons with {RIVALS[key]}, {signs.count(1)} are significantly better and {signs.count(-1)} worse; "
            f"were all equally good, about {0.025 * len(signs):.0f} of each would be by chance.  "
            + (
                f"Never better than {RIVALS[key]}: {'; '.join(never)}."
                if never
                else "Every method is better at least once."
            )
        )
    lost = [name for name, results in found.items() if all(each.sign("chow") < 1 for each in results)]
    text.append(f"Sets on which no method is better than Chow: {'; '.join(lost) if lost else 'none'}.")
    lost = [name for name, results in found.items() if all(each.sign("single") < 1 for each in results)]
    text.append(f"Sets on which no method is better than the best single arm: {'; '.join(lost) if lost else 'none'}.")
    return "\n\n".join([table(header, lines), *text])


ABOUT = f"""**Utility** is accuracy less the price of the experts who were asked.  What a person or the dearest service costs ({ASKING}) is an
assumption on every set, and every conclusion depends on it.  Every row of a test part (30%, groups together) is routed by a method
that has not seen it.

*Who can be asked.*  Whoever answered a row in the log can be asked for it, and nobody else: a mask at decision time that every
method and every reference is under.  So each value is an average of observed answers, and no propensity or model enters the
evaluation; it is the value of a system that knows who is on duty, not of one that could ask anybody.  Methods are *fitted* on
answers with gaps as missing at random; those marked "with propensities" get the probability that an expert was asked given the
features, by logistic regression, no less than {LEAST_PROPENSITY}.

*References.*  Chow is ``ConfidenceDeferral``: own confidence, calibrated or not as the training rows choose, against the mean accuracy
of each expert.  On sets that know only who was right, its confidence is a model of whether own is right.  The best single arm has the highest utility on the
training rows, among arms with at least {LEAST_ANSWERS} answers there; where it did not answer, the next in that order is taken.  Random
deferral asks the expert of highest training utility that is there, on random rows.  The oracle sees all answers.

*Methods* have their default parameters, but for what a quarter of the training rows chooses: C among {", ".join(f"{C:g}" for C in STRENGTHS)};
on answers ``calibrated`` of ConfidenceDeferral and ``features`` "scores" or "both" of PostHocDeferral; alpha of softmax_alpha among
{", ".join(f"{a:g}" for a in ALPHAS)} at C = 10.  All see the same features.  TwoStageDeferral and QualityRouter see the query, not what the
own classifier says about it; their own outcomes are cross-fitted.  LearnedTriage has no binding rate here, since asking has a price.

In parentheses: {LEVEL:.0%} intervals of means of per-row terms, differences paired, pooled over the splits and clustered, so that a row
that is tested in several splits counts once.  They hold fits as given; after ±: standard deviation over the splits.  *Significant*
means that the interval lies on one side of 0, without a correction for the number of comparisons.  AUC-DF: area under the deferral
curve, without prices, where there is one expert."""


def whole_page(parts: Sequence[tuple[str, str]], found: dict[str, list[Result]], n_splits: int) -> str:
    """The page of some sets."""
    above = f"{ABOUT}\n\n{n_splits} splits.  {machine()}"
    return page("Learning to defer", "``python benchmarks/deferral.py``", above, *parts, ("In all", summary(found)))


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows a set, two splits; prints only")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=DEFAULTS)
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument(
        "--output", type=Path, default=None, help="default docs/benchmarks/deferral.rst after a whole run"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not DATA.is_dir():
        print("benchmarks/deferral.py skipped: the shared sets are not here (../shared/data)")
        return
    n_splits, most = (2, QUICK_ROWS) if options.quick else (options.splits, MOST_ROWS)
    parts, found = [], {}
    for name in options.sets:
        try:
            whole = SETS[name](DATA)
        except FileNotFoundError as error:
            print(f"{name} skipped: {error}")
            continue
        shown, found[whole.name] = compare(whole, n_splits, most)
        parts += shown
    text = whole_page(parts, found, n_splits)
    print(text)
    if options.output or (not options.quick and tuple(options.sets) == DEFAULTS and options.splits == SPLITS):
        (options.output or DOCS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
