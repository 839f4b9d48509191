"""Consistency measured: excess risk over the Bayes rule as samples grow, on problems of known law.

Every problem is a generator of `defer.datasets` on 48 equally likely query types with one indicator each, so that a linear score
is any function of the query and the excess risk is computed exactly, type by type.  Sizes, strengths and accuracies of the
laws were chosen by their population minimisers: each rule that is known to be wrong in the limit (alpha = 0.5, RS, RL2D with
q = 0.7, Chow) had to err on some types of some problem; the seed of the coefficients is 0 in all.  The accuracy of the noisy
expert was moved once after trial samples, from 0.55 to 0.54 with a smaller strength: at 0.55 the minimiser of RL2D with
q = 0.7 nearly ties with the Bayes rule on most types, and no sample size in reach tells which of them it is.  The page tabulates
on how many types each rule errs, and the limit of every curve, computed by fitting the law itself.

Verdicts are computed from the curve alone: its slope between the last two sample sizes, with a 95% bootstrap interval over seeds,
is below -1/4 ("falls"), above ("levels off"), or the interval holds -1/4 ("open").

Writes docs/benchmarks/consistency.rst and docs/images/consistency.png:  python benchmarks/consistency.py [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from consistency_laws import LAWS, N_TYPES, Law
from consistency_methods import (
    ONE_EXPERT,
    SEVERAL_EXPERTS,
    C,
    Method,
    excess,
    fit_predictor,
    fitted,
    regret_of,
)
from consistency_picture import draw
from side_by_side import machine, page, table

from defer.estimators import SingleStageDeferral

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "benchmarks" / "consistency.rst", DOCS / "images" / "consistency.png"
SIZES, SEEDS = (250, 1_000, 4_000, 16_000, 64_000), 30
LARGER_SIZES = (256_000, 1_024_000)
# Queries of the "sample" that stands for the law: its penalty is next to nothing.
POPULATION = 1e9
TURNING_SLOPE = -0.25
RESAMPLES = 2_000
# The predictor of two-stage and post-hoc methods has a sample of its own.
_OF_THE_PREDICTOR = 10_000

Part = tuple[str, str]


@dataclass(frozen=True)
class Curve:
    """Excess risk of one method on one problem, (sizes, seeds), and its limit."""

    law: Law
    method: Method
    sizes: tuple[int, ...]
    excess: np.ndarray
    limit: float
    limit_types: int

    @property
    def proved(self) -> bool | None:
        """Whether the method is known to be consistent here: Chow's rule is where experts are equally good everywhere."""
        if self.method.name == "Chow":
            return bool((np.ptp(self.law.types.expert_probability, axis=0) == 0).all())
        return self.method.proved

    @property
    def mean(self) -> np.ndarray:
        """Over seeds."""
        return self.excess.mean(axis=1)

    @property
    def error(self) -> np.ndarray:
        """Standard error of the mean."""
        return self.excess.std(axis=1, ddof=1) / np.sqrt(self.excess.shape[1])

    def slopes(self, first: int = 0) -> tuple[float, float, float]:
        """Slope of log mean excess against log n from the size of that index on, and the ends of its 95% interval."""
        rng = np.random.default_rng(0)
        sizes, seeds = self.excess.shape
        drawn = rng.integers(seeds, size=(RESAMPLES, sizes, seeds))
        resampled = np.take_along_axis(self.excess[None], drawn, axis=2).mean(axis=2)
        log_n = np.log(self.sizes[first:])
        lever = (log_n - log_n.mean()) / ((log_n - log_n.mean()) ** 2).sum()
        # A mean of nothing but zeros counts as the least that could have been seen, which understates the fall.
        least = self._least_seen()
        slope = np.log(np.maximum(np.vstack([self.mean, resampled])[:, first:], least)) @ lever
        return float(slope[0]), *(float(end) for end in np.quantile(slope[1:], [0.025, 0.975]))

    def verdict(self, first: int | None = None) -> str:
        """Falls, levels off, or open: by the slope from the size of that index on, by default over the last step."""
        _, low, high = self.slopes(len(self.sizes) - 2 if first is None else first)
        if high < TURNING_SLOPE:
            return "falls"
        return "levels off" if low > TURNING_SLOPE else "open"

    def _least_seen(self) -> float:
        cost = self.law.types.action_cost
        above = cost - cost.min(axis=1, keepdims=True)
        return float(above[above > 1e-12].min()) / N_TYPES / self.excess.shape[1]


def study(sizes: Sequence[int], n_seeds: int) -> list[Curve]:
    """All curves."""
    curves = []
    for law in LAWS:
        start = perf_counter()
        methods = ONE_EXPERT if law.n_experts == 1 else SEVERAL_EXPERTS
        found = _measured(law, methods, sizes, n_seeds)
        population = law.population(POPULATION)
        predictor = fit_predictor(population)
        for method, values in zip(methods, found, strict=True):
            regret = regret_of(law, fitted(law, method, population, predictor))
            curves.append(Curve(law, method, tuple(sizes), values, regret.mean(), int((regret > 1e-9).sum())))
        print(f"{law.name}: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return curves


def continued(curves: Sequence[Curve], sizes: Sequence[int]) -> list[Curve]:
    """The curves that are open, from their last size on to larger ones."""
    longer = []
    for law in LAWS:
        own = [curve for curve in curves if curve.law is law and curve.verdict() == "open"]
        if own:
            found = _measured(law, [curve.method for curve in own], sizes, own[0].excess.shape[1])
            longer += [
                replace(curve, sizes=(curve.sizes[-1], *sizes), excess=np.vstack([curve.excess[-1:], values]))
                for curve, values in zip(own, found, strict=True)
            ]
    return longer


def _measured(law: Law, methods: Sequence[Method], sizes: Sequence[int], n_seeds: int) -> np.ndarray:
    """Excess risk, (methods, sizes, seeds)."""
    found = np.empty((len(methods), len(sizes), n_seeds))
    for i, n in enumerate(sizes):
        for seed in range(n_seeds):
            sample, predictor = law.sample(n, seed), fit_predictor(law.sample(n, _OF_THE_PREDICTOR + seed))
            found[:, i, seed] = [excess(law, method, sample, predictor) for method in methods]
    return found


def largest_differences(n: int = 500) -> tuple[float, float]:
    """Between methods fitted to counts and to the same sample query by query, over all of them.

    The first in a predicted quality, of methods with one solution; the second in the excess risk of the others.
    """
    quality, risk, queries = [0.0], [0.0], np.eye(N_TYPES)
    for law in LAWS:
        counts, predictor = law.sample(n, 0), fit_predictor(law.sample(n, _OF_THE_PREDICTOR))
        for method in ONE_EXPERT if law.n_experts == 1 else SEVERAL_EXPERTS:
            one, other = (fitted(law, method, sample, predictor) for sample in (counts, counts.repeated()))
            if method.exact:
                quality.append(float(np.abs(one.predict_quality(queries) - other.predict_quality(queries)).max()))
            else:
                risk.append(abs(float(regret_of(law, one).mean() - regret_of(law, other).mean())))
    return max(quality), max(risk)


def problems() -> Part:
    """What the problems are."""
    rows = []
    for law in LAWS:
        types = law.types
        cost = np.sort(types.action_cost, axis=1)
        rows.append([
            law.name, law.about, f"{types.bayes_risk:.4f}", str(int((types.bayes_action > 0).sum())),
            str(int((cost[:, 1] - cost[:, 0] < 0.05).sum())),
        ])  # fmt: skip
    header = [
        "problem",
        "law",
        "Bayes risk",
        "types the Bayes rule defers",
        "types where the best two actions differ by < 0.05",
    ]
    return f"Problems of {N_TYPES} types", table(header, rows)


def tables(curves: Sequence[Curve]) -> list[Part]:
    """One table per problem."""
    parts = []
    for law in LAWS:
        own = [curve for curve in curves if curve.law is law]
        rows = []
        for curve in own:
            slope, low, high = curve.slopes()
            claim = {True: "yes", False: "no", None: "not claimed"}[curve.proved]
            limit = f"{curve.limit:.4f} ({curve.limit_types})"
            rows.append(
                [
                    curve.method.name,
                    claim,
                    *_cells(curve),
                    limit,
                    f"{slope:.2f} [{low:.2f}, {high:.2f}]",
                    curve.verdict(),
                ]
            )
        header = ["method", "proved", *(f"n = {n:,}" for n in own[0].sizes), "limit (types)", "slope", "verdict"]
        parts.append((f"{law.name.capitalize()}: {law.about}", table(header, rows)))
    return parts


def summary(curves: Sequence[Curve]) -> Part:
    """Verdicts against what is proved and against the computed limits."""
    lines = []
    for own, words in (
        ([curve for curve in curves if curve.proved], "proved consistent"),
        (
            [curve for curve in curves if not curve.proved and curve.limit > 0],
            "not proved consistent, with a limit above 0",
        ),
        (
            [curve for curve in curves if not curve.proved and curve.limit == 0],
            "not proved consistent, with a limit of 0 here",
        ),
    ):
        count = {name: sum(curve.verdict() == name for curve in own) for name in ("falls", "levels off", "open")}
        lines.append(
            f"* Of {len(own)} curves of methods {words}, {count['falls']} fall, {count['levels off']} level off, {count['open']} "
            "open after the last step."
        )
    against = [
        f"{curve.method.name} on {curve.law.name} ({curve.verdict()}, limit {curve.limit:.4f})"
        for curve in curves
        if curve.verdict() != ("levels off" if curve.limit > 0 else "falls")
    ]
    lines.append(
        "* Curves that do not do what their limit says, which is to fall if it is 0 and to level off if not: "
        f"{'; '.join(against) if against else 'none'}."
    )
    lines.append(
        "* Where a method that is proved consistent has a limit above 0, the solver does not reach the minimum: see the last section."
    )
    return "Summary", "\n".join(lines)


def open_ones(longer: Sequence[Curve]) -> Part:
    """What became of the curves that were open."""
    rows = [
        [curve.law.name, curve.method.name, *_cells(curve), f"{curve.limit:.4f}", curve.verdict(0)] for curve in longer
    ]
    about = (
        "The last step leaves these open: what is left of their excess lies on a few types where, to the method, two labels or label "
        "and expert nearly tie, and differs from sample to sample.  Continued on larger samples, with the verdict over all sizes shown:"
    )
    header = ["problem", "method", *(f"n = {n:,}" for n in longer[0].sizes), "limit", "verdict"] if longer else []
    return "Open curves, continued", f"{about}\n\n{table(header, rows)}" if longer else "None is open."


def _cells(curve: Curve) -> list[str]:
    return [f"{mean:.4f} ± {error:.4f}" for mean, error in zip(curve.mean, curve.error, strict=True)]


def reached() -> Part:
    """RL2D with q = 1 on the law itself: what the solver reaches, against the infimum."""
    rows = []
    for law in LAWS:
        if law.n_experts > 1:
            continue
        router = SingleStageDeferral("rl2d", q=1.0, C=C, tol=1e-6, max_iter=1_000)
        method = Method("", lambda _, router=router: router, None)
        regret = regret_of(law, fitted(law, method, law.population(POPULATION), None))
        rows.append([law.name, f"{law.types.bayes_risk:.6f}", f"{router.model_.objective:.6f}", f"{regret.mean():.4f}"])
    header = ["problem", "infimum", "reached", "excess risk"]
    about = (
        "For q = 1 the loss is 1 - s_y - [expert right] s_d, linear in the softmax s: over all scores its infimum is the Bayes risk, "
        "and a score vector that is within e of it has excess risk of at most (K + 1) e.  But the gradient in the scores vanishes "
        "wherever one action has all the mass, right or wrong: from zero or from the softmax solution alone L-BFGS stops on plateaus "
        "(on the linear problem at 0.253791).  The estimator also follows the solution through q = 0, 0.2, 0.4, 0.6, 0.8 and keeps the "
        "lowest objective, which holds the penalty."
    )
    return "RL2D, q = 1: what the solver reaches", f"{about}\n\n{table(header, rows)}"


def written(curves: Sequence[Curve], longer: Sequence[Curve], differences: tuple[float, float]) -> str:
    """The page."""
    about = (
        f"Mean excess risk over the Bayes rule, exact on {N_TYPES} equally likely query types, and its standard error over "
        f"{curves[0].excess.shape[1]} samples of each size.  Two-stage and post-hoc methods and Chow's rule get a predictor that was "
        "fitted on a second sample of the same size; all others learn from one.  Linear scores on type indicators: any function of "
        f"the query.  C = {C:g}, that is a penalty of ``|coef|² / (2 C n)`` on the mean loss, which vanishes as n grows.  Surrogates that "
        "are not convex (asymmetric softmax, RS, RL2D) show what L-BFGS reached; RS and RL2D are convex in the softmax for all "
        "q <= 1, so that stationary scores are optimal, but the gradient can vanish at infinity.  \"Proved\" is what is known "
        "of the method with unrestricted scores; \"limit\" is the excess risk after fitting the law itself, and the number of "
        "types on which it errs; \"slope\" is that of log mean excess against log n over all sizes, with a 95% bootstrap interval "
        f"over seeds.  Verdict: the slope of the last step, with its interval, below {TURNING_SLOPE:g} (falls), above (levels off), or neither "
        "(open).  Samples are fitted as counts of (type, label, right experts) with weights; the largest difference "
        f"from fitting the same 500 queries one by one was {differences[0]:.0e} in a predicted quality, within the tolerance of the solvers; that in the excess risk of the "
        f"methods that are not convex was {differences[1]:.4f}, because rounding can turn the path of the solver.  {machine()}"
    )  # fmt: skip
    image = (
        "",
        ".. image:: ../images/consistency.png\n   :alt: Excess risk against sample size, one row per problem; dotted lines "
        "are limits\n   :width: 100%",
    )
    parts = [image, summary(curves), problems(), *tables(curves), open_ones(longer), reached()]
    return page("Consistency", "``python benchmarks/consistency.py``", about, *parts)


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 seeds and three sizes, prints only")
    parser.add_argument("--output", type=Path, default=None, help=f"default docs/benchmarks/{PAGE.name}")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    curves = study(SIZES[:3], 3) if options.quick else study(SIZES, SEEDS)
    longer = [] if options.quick else continued(curves, LARGER_SIZES)
    text = written(curves, longer, largest_differences())
    print(text)
    if options.output or not options.quick:
        (options.output or PAGE).write_text(text, encoding="utf-8")
        draw(curves, PICTURE if options.output is None else options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
