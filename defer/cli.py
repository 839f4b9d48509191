"""The command line: demo, audit, split, fit, route, explain, evaluate, report.

Results go to standard output, progress and warnings to standard error.  An error is one clear line and exit code 1;
``--debug``, anywhere on the line, shows where it came from.
"""

from __future__ import annotations

import sys
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from defer._version import __version__
from defer.command_explain import explain
from defer.command_files import (
    DEFAULT_QUERIES,
    check_file,
    check_folder,
    policy_columns,
    query_columns,
    read_log,
)
from defer.command_options import (
    DEFAULT_ROUTER,
    Columns,
    Features,
    Json,
    LogFile,
    LogText,
    MeanCost,
    Policy,
    PolicyText,
    RouterName,
    SplitBy,
    TrainingLog,
    Trust,
)
from defer.command_routers import build_router, describe_routers
from defer.exceptions import DeferError
from defer.terminal import LineCommand, LineGroup, counted, print_json, say, show_evaluation, steps

if TYPE_CHECKING:
    from defer.evaluation.result import Evaluation
    from defer.portfolios.limits import Budget

__all__ = ["app", "main"]

# Queries that are routed at a time where no budget ties the whole batch together.
_CHUNK = 2048

app = typer.Typer(
    name="defer",
    cls=LineGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fit a router on logged outcomes of your models, and know what it is worth before it ships.",
    epilog="Exit codes: 0 fine, 1 error, 2 wrong usage, 3 a log that is not sound (audit).  "
    "--debug may stand anywhere on the line.",
)


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

    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    check_folder(out / "policy")
    check_file(out / "report.html")
    with steps() as step:
        step("read and audit the embedded log")
        log = load_tiny()
        sound = audit(log).is_sound
        train, test = log.split(test_size=0.3, seed=0)
        summary = train.summary()
        budget = Budget(mean_cost=float(summary.cost[summary.arms.index(summary.best_arm)]) / 4)
        step("fit the router and tune it to a quarter of the cost of the best single arm")
        tuned = TunedRouter(router(embeddings=False), limit=budget).fit(train.X, train.quality, cost=train.cost)
        step("evaluate on held-out queries")
        evaluation = evaluate(tuned, test, train=train)
        step("write policy and report")
        value = evaluation.estimate
        metrics = {"quality": value.value, "quality_low": value.low, "quality_high": value.high}
        metrics["cost"] = value.cost.value
        save(tuned, out / "policy", log=train, queries=DEFAULT_QUERIES, metrics=metrics, overwrite=True)
        evaluation.to_html(out / "report.html")
    if not as_json:
        size = f"{counted(len(log), 'query', 'queries')}, {counted(len(log.arms), 'arm', 'arms')}"
        typer.echo(f"embedded log: {size}, {'sound' if sound else 'not sound'}")
    show_evaluation(evaluation, as_json, report=out / "report.html", policy=out / "policy")


@app.command(cls=LineCommand)
def audit(
    log: LogFile, text: LogText = None, feature: Features = None, column: Columns = None, as_json: Json = False
) -> None:
    """Can this log answer the question?  Support, effective sample size, repeated texts, gaps.

    Leaves with exit code 3 if the log is not sound.
    """
    from defer.evaluation.audit import audit as run_audit

    result = run_audit(read_log(log, query_columns(text, feature), column))
    if as_json:
        print_json(result.as_dict())
    else:
        typer.echo(str(result))
    if not result.is_sound:
        raise typer.Exit(3)


@app.command(cls=LineCommand)
def split(
    log: LogFile,
    train: Annotated[Path, typer.Option("--train", metavar="FILE", help="Parquet file of the training part.")],
    test: Annotated[Path, typer.Option("--test", metavar="FILE", help="Parquet file of the test part.")],
    test_size: Annotated[
        float, typer.Option("--test-size", metavar="SHARE", help="Share of the queries in the test part.")
    ] = 0.3,
    by: Annotated[
        SplitBy,
        typer.Option(
            "--by",
            help="cluster: keep clusters, or else equal texts, on one side; time: test on the latest; random: neither.",
        ),
    ] = SplitBy.cluster,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the parts.")] = 0,
    text: LogText = None,
    feature: Features = None,
    column: Columns = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Split a log into a training and a test part.

    The parts are outcome logs of their own: texts stand in the column prompt, and columns that are no part of an outcome
    log are left out.
    """
    places = {"LOG": log.resolve(), "--train": train.resolve(), "--test": test.resolve()}
    if len(set(places.values())) < len(places):
        raise typer.BadParameter("LOG, --train and --test must be three different files")
    for path in (train, test):
        check_file(path, overwrite=overwrite)
    data = read_log(log, query_columns(text, feature), column, needs_queries=True, as_stored=True)
    parts = dict(zip((train, test), data.split(test_size, seed=seed, by=by.value), strict=True))
    for path, part in parts.items():
        part.to_parquet(path)
    if as_json:
        names = ("train", "test")
        sizes = [{"path": str(path), "n_queries": len(part)} for path, part in parts.items()]
        print_json(dict(zip(names, sizes, strict=True)))
        return
    for path, part in parts.items():
        typer.echo(f"{counted(len(part), 'query', 'queries')} -> {path}")


@app.command(cls=LineCommand)
def fit(
    log: LogFile,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For the fitted policy.")],
    kind: Annotated[
        RouterName,
        typer.Option("--router", help=describe_routers()),
    ] = DEFAULT_ROUTER,
    budget: MeanCost = None,
    text: LogText = None,
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
    check_folder(out)
    queries = query_columns(text, feature)
    with steps() as step:
        step("read the log")
        data = read_log(log, queries, column, needs_queries=True)
        if not queries and isinstance(data.X, list):
            queries = dict(DEFAULT_QUERIES)
        if len(data) == 1:
            say("warning", "the log has one query: nothing can be learned from it")
        if len(data.arms) == 1:
            say("warning", "the log has one arm: there is nothing to choose")
        step("fit")
        model = build_router(kind, data.X, embeddings=embeddings)
        options: dict[str, Any] = {} if data.propensity is None else {"propensity": data.propensity}
        if budget is not None and kind == "single":
            probe = model.fit(data.X, data.quality, cost=data.cost, **options)
            model = type(model)(probe.route(data.X, limit=_budget(budget)).label[0])
        elif budget is not None:
            model = TunedRouter(model, limit=_budget(budget))
            options["groups"] = query_groups(data)
        elif kind == "auto" and data.domain is not None:
            options["tags"] = data.domain
        model.fit(data.X, data.quality, cost=data.cost, **options)
        step("save")
        save(model, out, log=data, queries=queries or None, overwrite=overwrite)
    document = manifest(out)
    if as_json:
        print_json({"policy": str(out), **document})
    else:
        size = f"{counted(len(data), 'query', 'queries')} and {counted(len(data.arms), 'arm', 'arms')}"
        typer.echo(f"{document['router']} on {size} -> {out}")


@app.command(cls=LineCommand)
def route(
    policy: Policy,
    queries: Annotated[
        Path, typer.Argument(metavar="QUERIES", help="JSON lines, an object each; - is standard input.")
    ],
    budget: MeanCost = None,
    text: PolicyText = None,
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

    document = manifest(policy)
    columns = policy_columns(text, feature, document)
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
            sys.stdout.write("".join(answer_lines(chunk, routing, has_cost=document["has_cost"])))
            sys.stdout.flush()
            done += len(chunk)
            step(f"routed {counted(done, 'query', 'queries')}")


app.command(cls=LineCommand)(explain)


@app.command(cls=LineCommand)
def evaluate(
    policy: Policy,
    log: LogFile,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report here.")] = None,
    train: TrainingLog = None,
    budget: MeanCost = None,
    text: PolicyText = None,
    feature: Features = None,
    trust: Trust = None,
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Evaluate a saved policy on a held-out log."""
    evaluation = _evaluate(policy, log, train, html, budget, (text, feature), column, trust)
    show_evaluation(evaluation, as_json, report=html)


@app.command(cls=LineCommand)
def report(
    policy: Policy,
    log: LogFile,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    train: TrainingLog = None,
    budget: MeanCost = None,
    text: PolicyText = None,
    feature: Features = None,
    trust: Trust = None,
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Write the report of a saved policy on a held-out log, and print its path."""
    _evaluate(policy, log, train, out, budget, (text, feature), column, trust)
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


def _evaluate(
    policy: Path,
    log: Path,
    train: Path | None,
    html: Path | None,
    budget: float | None,
    queries: tuple[str | None, list[str] | None],
    column: list[str] | None,
    trust: list[str] | None,
) -> Evaluation:
    from defer.evaluation.evaluation import evaluate
    from defer.persistence import load, log_hash, manifest

    if html is not None:
        check_file(html)
    document = manifest(policy)
    columns, trained_on = query_columns(*queries, document["queries"]), document["training_log"]
    with steps() as step:
        step("read the log")
        data = read_log(log, columns, column, needs_queries=True)
        known = None if train is None else read_log(train, columns, column, needs_queries=True)
        if known is not None and trained_on not in (None, log_hash(known)):
            say("warning", f"--train: {train} is not the log that the policy was fitted on, its manifest says")
        is_training_log = trained_on == log_hash(data)
        known = data if is_training_log else known
        step("route and evaluate")
        evaluation = evaluate(load(policy, trusted=trust or ()), data, limit=_budget(budget), train=known)
        if html is not None:
            step("write the report")
            evaluation.to_html(html)
    return evaluation
