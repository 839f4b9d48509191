"""The page on routers: what was measured, the tables and the pictures."""

from __future__ import annotations

from pathlib import Path

from router_plots import draw
from router_runs import DOMAIN_FOLDS, FOLDS
from router_tables import SetResult, matrix, set_part, timing
from side_by_side import machine, page

__all__ = ["write"]

# Two arms and many queries, eleven arms, forty-four arms.
_TIMED = ("mmlu", "routerbench", "bfcl")

ABOUT = f"""Every router is **fitted on a training part of these very outcomes: an advantage that published routers did not have**,
so no number here is comparable with a published one, which stand below the tables.  {FOLDS}-fold cross-validation in which equal
texts (and the rows of one cluster) stay together; all measures are of the pooled out-of-fold predictions, and means over the
repeats.  Routers have their default parameters, on sentence embeddings (``all-MiniLM-L6-v2``) or, where the name says so, on
TF-IDF of words and word pairs; ``defer.router`` makes its own features.  Exceptions: boosted trees are shallow and see 40
principal components, logistic regression has 1,000 iterations, what is right for ``PoolVoteRouter`` on graded quality is said
with the set, and a parameter in a router's name.  Nothing was chosen on the test folds.  Sets of numbers are standardised by the training part.
*Means of a known domain* reads no query: it is told the name of the domain instead, of test queries too, which the others are not,
and takes the arms' means in that domain.

*quality, no limit*: mean quality where every query takes the arm of highest predicted quality, and what that costs.  *AIQ*:
mean quality of the concave hull of the router's operating points over the arms' range of costs, as far as the router reaches
it.  *area over zero router*: mean height of the router's own curve, no hull taken, over the concave hull of the single arms,
over the arms' range of costs.  *APGR*: area under the performance gap recovered, two arms; *CPT*: least share of strong calls
at which 50% or 80% of the gap is recovered.  *gain at the best arm's cost*: height of the router's curve at the mean cost of the
best single arm, less that arm's quality.  *cost for its quality*, *for half a point less*: least cost at which the curve reaches
the quality of the best arm, or 0.005 less, as a share of what that arm costs.  The first crossing of a noisy curve is optimistic.
In parentheses: 95% percentile bootstrap over groups of equal texts, predictions held fixed, zero router and arms' means computed
anew in every resample, the best arm being the same; after ±: standard deviation over the repeats.  *In hindsight* means chosen on the
evaluated outcomes themselves; the row RandomMixture is the zero router fitted out of fold, whose distance from 0 is the price of
not having hindsight.

*p, zero router* and *p, auto* compare areas with the zero router in hindsight and with ``defer.router("auto")``, on the same
resamples: the difference over its standard error is taken as normal, two-sided, where the error is that of the bootstrap and
that of the mean over the repeats, added in squares; folds share training queries, so the second part is too small.  Holm's
method adjusts for all the routers of a set, each column by itself.  Nothing is adjusted for the number of sets."""

_MATRIX = """Area over the zero router, in hundredths of a unit of quality.  ↑ or ↓: above or below the zero router, ▲ or ▽: above
or below ``defer.router("auto")``, each where the adjusted p-value is below 0.05.  *mean rank*: over the sets, 0 the best and 1 the
last."""

_DOMAINS = f"""The truer test of a router: its queries come from domains that it has not seen.  Every domain is held out with all
its queries, alone where a set has at most {DOMAIN_FOLDS} domains, else dealt at random into {DOMAIN_FOLDS} groups; all measures are
of the pooled predictions, once.  Intervals are of resampled queries of these domains: another choice of domains would vary more."""

_TIMING = """Time to fit on four fifths of the set; time per query to route the other fifth at once, features at hand; the same with
the features made anew (embedding a text takes most of it), and size of the saved policy without the transformers of texts.
Medians over the folds; processor time of one core, since other work went on beside it."""


def write(
    crossed: list[SetResult],
    domains: list[SetResult],
    folder: Path | None,
    *,
    repeats: int,
    stack_repeats: int,
    draws: int,
    many: int,
) -> str:
    """The page as text; with a folder it is written there, with its pictures."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    count = f"{repeats} repeats" if repeats > 1 else "One repeat"
    if repeats > 1:
        count += f", {repeats - 1} of sets of more than {many:,} queries"
    if stack_repeats < repeats:
        count += f", {stack_repeats} of the stacks, with which others are compared over the same ones"
    parts = [("All sets", f"{_MATRIX}\n\n{matrix(crossed, intervals=False)}")]
    timed = [found for found in crossed if found.name in _TIMED]
    if timed:
        parts.append(("Time and size", f"{_TIMING}\n\n{timing(timed)}"))
    if domains:
        parts.append(("Whole domains held out", f"{_DOMAINS}\n\n{_MATRIX}\n\n{matrix(domains, intervals=True)}"))
    for found in crossed:
        parts += set_part(found, [] if folder is None else draw(found, folder))
    text = page(
        "Routers",
        "``python benchmarks/routers.py``",
        f"{ABOUT}\n\n{count}, {draws} resamples.  {machine()}",
        *parts,
    )
    if folder is not None:
        (folder / "routers.rst").write_text(text, encoding="utf-8")
    return text
