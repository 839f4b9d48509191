"""The command line: demo, audit, fit, route, evaluate, report.

Results go to standard output, progress and warnings to standard error.  An error is one clear line and exit code 1;
``--debug``, anywhere on the line, shows where it came from.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from defer._version import __version__
from defer.exceptions import DeferError
from defer.terminal import LineCommand, LineGroup, print_json, say, show_evaluation, steps

if TYPE_CHECKING:
    from defer.evaluation.result import Evaluation
    from defer.portfolios.limits import Budget
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["RouterName", "app", "main"]

# Queries that are routed at a time where no budget ties the whole batch together.
_CHUNK = 2048

_DEFAULT = {"text": "prompt"}


app = typer.Typer(
    name="defer",
    cls=LineGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fit a router on logged outcomes of your models, and know what it is worth before it ships.",
    epilog="Exit codes: 0 fine, 1 error, 2 wrong usage, 3 a log that is not sound (audit).",
)


class RouterName(StrEnum):
    """Routers that `fit` knows."""

    quality = "quality"
    knn = "knn"
    single = "single"
    mixture = "mixture"


LogFile = Annotated[
    Path,
    typer.Argument(
        metavar="LOG", help="Outcome log, a Parquet file: wide (score:ARM, cost_usd:ARM, latency_s:ARM) or long."
    ),
]
Policy = Annotated[Path, typer.Argument(metavar="POLICY", help="Folder of a saved policy.")]
TextColumnName = Annotated[
    str | None,
    typer.Option(
        "--text", metavar="COLUMN", help="Column with the text of the query.  Default: the policy's, or 'prompt'."
    ),
]
Features = Annotated[
    list[str] | None,
    typer.Option("--feature", metavar="COLUMN", help="Numeric column, in place of a text; repeat it."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=NAME", help="Another name for a column, such as quality=acc:; repeat it."),
]
MeanCost = Annotated[
    float | None, typer.Option("--budget", metavar="USD", min=0.0, help="Mean cost per query, in US dollars.")
]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="TYPE", help="Full name of a foreign type that the policy may hold; repeat it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command(cls=LineCommand)
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For the report and the policy.")] = Path(
        "defer-demo"
    ),
    as_json: Json = False,
) -> None:
    """Run the main job on the embedded log: audit, fit, frontier, report."""
    from defer.datasets import load_tiny
    from defer.estimators import TunedRouter
    from defer.estimators.text import router
    from defer.evaluation.audit import audit
    from defer.evaluation.evaluation import evaluate
    from defer.persistence import save
    from defer.portfolios.limits import Budget

    out.mkdir(parents=True, exist_ok=True)
    with steps() as step:
        step("read and audit the embedded log")
        log = load_tiny()
        sound = audit(log).is_sound
        train, test = log.split(test_size=0.3, seed=0)
        summary = train.summary()
        budget = Budget(mean_cost=float(summary.cost[summary.arms.index(summary.best_arm)]) / 2)
        step("fit the router and tune it to half the cost of the best single arm")
        tuned = TunedRouter(router(embeddings=False), limit=budget).fit(train.X, train.quality, cost=train.cost)
        step("evaluate on held-out queries")
        evaluation = evaluate(tuned, test, train=train)
        step("write policy and report")
        save(tuned, out / "policy", log=train, queries=_DEFAULT, overwrite=True)
        evaluation.to_html(out / "report.html")
    if not as_json:
        typer.echo(f"embedded log: {len(log):,} queries, {len(log.arms)} arms, {'sound' if sound else 'not sound'}")
    show_evaluation(evaluation, as_json, report=out / "report.html", policy=out / "policy")


@app.command(cls=LineCommand)
def audit(
    log: LogFile, text: TextColumnName = None, feature: Features = None, column: Columns = None, as_json: Json = False
) -> None:
    """Can this log answer the question?  Support, effective sample size, repeated texts, gaps.

    Leaves with exit code 3 if the log is not sound.
    """
    from defer.evaluation.audit import audit as run_audit

    result = run_audit(_read(log, _query_columns(text, feature), column))
    if as_json:
        print_json(result.as_dict())
    else:
        typer.echo(str(result))
    if not result.is_sound:
        raise typer.Exit(3)


@app.command(cls=LineCommand)
def fit(
    log: LogFile,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For the fitted policy.")],
    kind: Annotated[
        RouterName,
        typer.Option(
            "--router",
            help="quality: predict every arm's quality and cost; knn: by the most similar logged queries; "
            "single: the best single arm; mixture: the best random mixture of arms.",
        ),
    ] = RouterName.quality,
    budget: MeanCost = None,
    text: TextColumnName = None,
    feature: Features = None,
    column: Columns = None,
    embeddings: Annotated[
        bool, typer.Option(help="Sentence embeddings beside n-grams (quality, text), where a model is installed.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a policy that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Fit a router on a log and save it; with --budget its operating point is tuned by cross-validation."""
    from defer.estimators import TunedRouter
    from defer.persistence import manifest, save
    from defer.portfolios.splitting import query_groups

    if (out / "manifest.json").exists() and not overwrite:
        raise DeferError(f"{str(out)!r} holds a policy already: give --overwrite to replace it")
    queries = _query_columns(text, feature)
    with steps() as step:
        step("read the log")
        data = _read(log, queries, column, needs_queries=True)
        if not queries and isinstance(data.X, list):
            queries = dict(_DEFAULT)
        step("fit")
        model = _router(kind, data.X, embeddings)
        options: dict[str, Any] = {} if data.propensity is None else {"propensity": data.propensity}
        if budget is not None and kind is RouterName.single:
            probe = model.fit(data.X, data.quality, cost=data.cost, **options)
            model = type(model)(probe.route(data.X, limit=_budget(budget)).label[0])
        elif budget is not None:
            model = TunedRouter(model, limit=_budget(budget))
            options["groups"] = query_groups(data)
        model.fit(data.X, data.quality, cost=data.cost, **options)
        step("save")
        save(model, out, log=data, queries=queries or None, overwrite=overwrite)
    document = manifest(out)
    if as_json:
        print_json({"policy": str(out), **document})
    else:
        typer.echo(f"{document['router']} on {len(data):,} queries and {len(data.arms)} arms -> {out}")


@app.command(cls=LineCommand)
def route(
    policy: Policy,
    queries: Annotated[
        Path, typer.Argument(metavar="QUERIES", help="JSON lines, an object each; - is standard input.")
    ],
    budget: MeanCost = None,
    text: TextColumnName = None,
    feature: Features = None,
    trust: Trust = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the randomised group, if there is one.")] = 0,
) -> None:
    """Route queries: every line comes back with arm, propensity, predicted quality and cost, and fallbacks.

    Lines are answered as they are read.  With --budget the whole input is read first, because the budget holds for all
    of it together.
    """
    import numpy as np

    from defer.persistence import load, manifest
    from defer.query_lines import answer_lines, queries_of, read_lines

    saved = manifest(policy)["queries"]
    if saved is None and text is None and not feature:
        raise DeferError(
            "the policy does not say what its queries are called: give --text, or --feature for each number"
        )
    columns = _query_columns(text, feature, saved)
    rows = read_lines(queries, columns)
    first = next(rows, None)
    if first is None:
        raise DeferError(f"{'standard input' if str(queries) == '-' else queries} holds no query")
    rows = chain([first], rows)
    router, limit, random_state = load(policy, trusted=trust or ()), _budget(budget), np.random.RandomState(seed)
    done = 0
    with steps(quiet=sys.stdout.isatty()) as step:
        while chunk := list(rows if limit is not None else islice(rows, _CHUNK)):
            routing = router.route(queries_of(chunk, columns), limit=limit, random_state=random_state)
            sys.stdout.write("".join(answer_lines(chunk, routing)))
            sys.stdout.flush()
            done += len(chunk)
            step(f"routed {done:,} queries")


@app.command(cls=LineCommand)
def evaluate(
    policy: Policy,
    log: LogFile,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report here.")] = None,
    budget: MeanCost = None,
    text: TextColumnName = None,
    feature: Features = None,
    trust: Trust = None,
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Evaluate a saved policy on a held-out log."""
    evaluation = _evaluate(policy, log, html, budget, (text, feature), column, trust)
    show_evaluation(evaluation, as_json, report=html)


@app.command(cls=LineCommand)
def report(
    policy: Policy,
    log: LogFile,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    budget: MeanCost = None,
    text: TextColumnName = None,
    feature: Features = None,
    trust: Trust = None,
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Write the report of a saved policy on a held-out log, and print its path."""
    _evaluate(policy, log, out, budget, (text, feature), column, trust)
    if as_json:
        print_json({"report": str(out)})
    else:
        typer.echo(str(out))


def main() -> None:
    """Entry point of the console script and of ``python -m defer``."""
    app(prog_name="defer")


def _budget(mean_cost: float | None) -> Budget | None:
    from defer.portfolios.limits import Budget

    return None if mean_cost is None else Budget(mean_cost=mean_cost)


def _query_columns(
    text: str | None, feature: list[str] | None, saved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Where a table keeps its queries: what was asked for, else what the policy was fitted on."""
    if text is not None and feature:
        raise typer.BadParameter("give either --text or --feature, not both")
    if feature:
        return {"features": list(feature)}
    if text is not None:
        return {"text": text}
    return dict(saved or {})


def _read(
    path: Path, queries: Mapping[str, Any], column: list[str] | None, *, needs_queries: bool = False
) -> OutcomeLog:
    import pyarrow.parquet as pq

    from defer.portfolios.outcomes import OutcomeLog
    from defer.query_lines import plain_queries

    wrong = [item for item in column or [] if "=" not in item]
    if wrong:
        raise typer.BadParameter(f"--column takes FIELD=NAME, got {wrong[0]!r}")
    if not path.is_file():
        raise DeferError(f"{path}: there is no such file")
    mapping = dict(item.split("=", 1) for item in column or [])
    try:
        names = pq.read_schema(path).names
    except (OSError, ValueError) as error:
        raise DeferError(f"{path} cannot be read as Parquet: {error}") from None
    if not queries and _DEFAULT["text"] in names:
        queries = _DEFAULT
    try:
        log = OutcomeLog.read_parquet(path, columns=mapping or None, **queries)
    except DeferError as error:
        message = str(error)
        for argument, option in (("text=", "--text"), ("features=", "--feature"), ("columns=", "--column")):
            message = message.replace(argument, option)
        raise DeferError(f"{path}: {message}") from error
    if log.X is None and needs_queries:
        raise DeferError(
            f"{path} has no column {_DEFAULT['text']!r}: name the queries with --text or --feature; the columns are {names[:20]}"
        )
    return replace(log, X=plain_queries(log.X, str(path)))


def _router(kind: RouterName, X: Any, embeddings: bool) -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    from defer.estimators import KNNRouter, QualityRouter, RandomMixture, SingleArm, make_pipeline
    from defer.estimators.text import router as text_router

    is_text = isinstance(X, list)
    match kind:
        case RouterName.single:
            return SingleArm()
        case RouterName.mixture:
            return RandomMixture()
        case RouterName.quality if is_text:
            return text_router(embeddings="auto" if embeddings else False)
        case RouterName.quality:
            return make_pipeline(StandardScaler(), QualityRouter(Ridge(), Ridge()))
        case RouterName.knn if is_text:
            features = text_router(embeddings=False)[:-1]
            return make_pipeline(*[part for _, part in features.steps], KNNRouter())
        case _:
            return make_pipeline(StandardScaler(), KNNRouter(metric="euclidean"))


def _evaluate(
    policy: Path,
    log: Path,
    html: Path | None,
    budget: float | None,
    queries: tuple[str | None, list[str] | None],
    column: list[str] | None,
    trust: list[str] | None,
) -> Evaluation:
    from defer.evaluation.evaluation import evaluate
    from defer.persistence import load, log_hash, manifest

    if html is not None and not html.parent.is_dir():
        raise DeferError(f"{html}: there is no folder {html.parent}")
    document = manifest(policy)
    columns = _query_columns(*queries, document["queries"])
    with steps() as step:
        step("read the log")
        data = _read(log, columns, column, needs_queries=True)
        step("route and evaluate")
        evaluation = evaluate(load(policy, trusted=trust or ()), data, limit=_budget(budget))
        if html is not None:
            step("write the report")
            evaluation.to_html(html)
    if document["training_log"] == log_hash(data):
        say("warning", "this is the log that the policy was trained on: the evaluation flatters it")
    return evaluation
