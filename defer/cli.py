"""The command line: demo, audit, fit, route, evaluate, report.

Errors are one clear line and exit code 1 (2 for wrong usage); ``--debug`` shows where they came from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from defer._version import __version__
from defer.exceptions import DeferError

__all__ = ["app", "main"]

app = typer.Typer(
    name="defer", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Fit a router on logged outcomes of your models, and know what it is worth before it ships.",
)  # fmt: skip
_out, _err = Console(highlight=False), Console(stderr=True, highlight=False)

Text = Annotated[str, typer.Option("--text", help="Column with the text of the query.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Log = Annotated[
    Path, typer.Argument(help="Outcome log: a Parquet file, wide (score:ARM, cost_usd:ARM, latency_s:ARM) or long.")
]
BudgetOption = Annotated[float | None, typer.Option("--budget", help="Mean cost per query in US dollars.")]
MapOption = Annotated[list[str] | None, typer.Option("--column", help="Other column names, as field=name; repeat it.")]


class RouterName(StrEnum):
    """Routers that `fit` knows."""

    quality = "quality"
    knn = "knn"
    single = "single"
    mixture = "mixture"


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        _out.print(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the report and the policy.")] = Path("defer-demo"),
    as_json: Json = False,
) -> None:
    """Run the main job on the embedded log: audit, fit, frontier, report."""
    from defer.datasets import load_tiny
    from defer.estimators.text import router
    from defer.estimators.tuning import TunedRouter
    from defer.evaluation.evaluation import evaluate
    from defer.persistence import save
    from defer.portfolios.limits import Budget

    out.mkdir(parents=True, exist_ok=True)
    with _steps(quiet=as_json) as step:
        step("read the embedded log")
        train, test = load_tiny().split(test_size=0.3, seed=0)
        summary = train.summary()
        budget = Budget(mean_cost=float(summary.cost[summary.arms.index(summary.best_arm)]) / 2)
        step("fit the router and tune it to half the cost of the best single arm")
        tuned = TunedRouter(router(embeddings=False), limit=budget).fit(train.X, train.quality, cost=train.cost)
        step("evaluate on held-out queries")
        evaluation = evaluate(tuned, test)
        step("write policy and report")
        save(tuned, out / "policy", log=train, overwrite=True)
        evaluation.to_html(out / "report.html")
    _show(evaluation, as_json, report=out / "report.html")


@app.command()
def audit(log: Log, text: Text = "prompt", column: MapOption = None, as_json: Json = False) -> None:
    """Can this log answer the question?  Support, effective sample size, repeated texts, gaps."""
    from defer.evaluation.audit import audit as run_audit

    result = run_audit(_read(log, text, column))
    if as_json:
        _print_json(result.as_dict())
    else:
        _out.print(str(result))
    if not result.is_sound:
        raise typer.Exit(3)


@app.command()
def fit(
    log: Log,
    out: Annotated[Path, typer.Option("--out", help="Folder for the fitted policy.")],
    kind: Annotated[RouterName, typer.Option("--router", help="Which router.")] = RouterName.quality,
    budget: BudgetOption = None,
    text: Text = "prompt",
    column: MapOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a policy that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Fit a router on a log; with --budget its operating point is tuned by cross-validation."""
    from defer.estimators import KNNRouter, RandomMixture, SingleArm, TunedRouter, make_pipeline
    from defer.estimators.text import router as text_router
    from defer.persistence import manifest, save
    from defer.portfolios.limits import Budget

    with _steps(quiet=as_json) as step:
        step("read the log")
        data = _read(log, text, column)
        step("fit")
        features = text_router(embeddings=False)[:-1]
        routers: dict[RouterName, Any] = {
            RouterName.quality: lambda: text_router(),
            RouterName.knn: lambda: make_pipeline(*[part for _, part in features.steps], KNNRouter()),
            RouterName.single: SingleArm,
            RouterName.mixture: RandomMixture,
        }
        model = routers[kind]()
        if budget is not None:
            model = TunedRouter(model, limit=Budget(mean_cost=budget))
        options = {} if data.propensity is None else {"propensity": data.propensity}
        model.fit(data.X, data.quality, cost=data.cost, **options)
        step("save")
        save(model, out, log=data, overwrite=overwrite)
    document = manifest(out)
    if as_json:
        _print_json({"policy": str(out), **document})
    else:
        _out.print(f"{document['router']} on {len(data)} queries and {len(data.arms)} arms -> {out}")


@app.command()
def route(
    policy: Annotated[Path, typer.Argument(help="Folder of a saved policy.")],
    queries: Annotated[Path, typer.Argument(help="JSON lines with a text each, or - for standard input.")],
    budget: BudgetOption = None,
    text: Text = "prompt",
    seed: Annotated[int, typer.Option("--seed", help="Draws the randomised group.")] = 0,
) -> None:
    """Route queries; prints a JSON line for each, with arm, propensity and predictions."""
    from defer.persistence import load
    from defer.portfolios.limits import Budget

    rows = _read_lines(queries, text)
    routing = load(policy).route(
        [row[text] for row in rows], limit=None if budget is None else Budget(mean_cost=budget), random_state=seed
    )
    arms = [arm.item() for arm in routing.arms]
    for index, row in enumerate(rows):
        answer = {
            "arm": arms[routing.arm[index]],
            "propensity": float(routing.propensity[index]),
            "quality": float(routing.quality[index]),
            "cost_usd": float(routing.cost[index]),
            "fallbacks": [arms[other] for other in routing.fallbacks[index]],
        }
        sys.stdout.write(json.dumps({**row, **answer}) + "\n")


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(help="Folder of a saved policy.")],
    log: Log,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report here.")] = None,
    budget: BudgetOption = None,
    text: Text = "prompt",
    column: MapOption = None,
    as_json: Json = False,
) -> None:
    """Evaluate a saved policy on a held-out log."""
    from defer.evaluation.evaluation import evaluate as run_evaluation
    from defer.persistence import load
    from defer.portfolios.limits import Budget

    with _steps(quiet=as_json) as step:
        step("read the log")
        data = _read(log, text, column)
        step("route and evaluate")
        evaluation = run_evaluation(load(policy), data, limit=None if budget is None else Budget(mean_cost=budget))
        if html is not None:
            step("write the report")
            evaluation.to_html(html)
    _show(evaluation, as_json, report=html)


@app.command()
def report(
    policy: Annotated[Path, typer.Argument(help="Folder of a saved policy.")],
    log: Log,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    budget: BudgetOption = None,
    text: Text = "prompt",
    column: MapOption = None,
) -> None:
    """Write the report of a saved policy on a log, and nothing else."""
    from defer.evaluation.evaluation import evaluate as run_evaluation
    from defer.persistence import load
    from defer.portfolios.limits import Budget

    limit = None if budget is None else Budget(mean_cost=budget)
    run_evaluation(load(policy), _read(log, text, column), limit=limit).to_html(out)
    _out.print(str(out))


def main() -> None:
    """Entry point of the console script."""
    debug = "--debug" in sys.argv
    arguments = ["--debug"] * debug + [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except (DeferError, OSError) as error:
        if debug:
            raise
        _err.print(f"[bold red]error[/]: {_plain(error)}", soft_wrap=True)
        sys.exit(1)


def _plain(error: Exception) -> str:
    from rich.markup import escape

    return escape(" ".join(str(error).split()))


@contextmanager
def _steps(*, quiet: bool) -> Iterator[Any]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=_err, transient=True, disable=quiet) as progress:
        task = progress.add_task("start", total=None)
        yield lambda name: progress.update(task, description=name)


def _read(path: Path, text: str, column: list[str] | None) -> Any:
    from defer.portfolios.outcomes import OutcomeLog

    wrong = [item for item in column or [] if "=" not in item]
    if wrong:
        raise typer.BadParameter(f"--column takes field=name, got {wrong[0]!r}")
    mapping = dict(item.split("=", 1) for item in column or [])
    return OutcomeLog.read_parquet(path, text=text, columns=mapping or None)


def _read_lines(path: Path, text: str) -> list[dict[str, Any]]:
    source = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    rows = []
    for number, line in enumerate(source.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DeferError(f"{path}: line {number} is no JSON ({error})") from None
        if not isinstance(row, dict) or not isinstance(row.get(text), str):
            raise DeferError(f"{path}: line {number} has no text under {text!r}")
        rows.append(row)
    if not rows:
        raise DeferError(f"{path} holds no query")
    return rows


def _show(evaluation: Any, as_json: bool, *, report: Path | None) -> None:
    from defer.report.verdict import verdict

    rows = list(evaluation.frame.iter_rows(named=True))
    if as_json:
        gap = evaluation.difference
        _print_json(
            {
                "policies": rows,
                "difference": {"value": gap.value, "low": gap.low, "high": gap.high, "baseline": evaluation.baseline},
                "verdict": verdict(evaluation),
                "load": evaluation.load,
                "warnings": list(evaluation.estimate.warnings),
                "report": None if report is None else str(report),
            }
        )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("policy", "quality", "interval", "cost ($)"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in rows:
        cost = row.get("cost")
        table.add_row(
            row["policy"],
            f"{row['quality']:.4f}",
            f"{row['quality_low']:.4f} … {row['quality_high']:.4f}",
            "" if cost is None else f"{cost:.3g}",
        )
    _out.print(table)
    for sentence in verdict(evaluation):
        _out.print(sentence, soft_wrap=True)
    if report is not None:
        _out.print(f"report: {report}", soft_wrap=True)


def _print_json(document: dict[str, Any]) -> None:
    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and value != value else value

    sys.stdout.write(json.dumps(finite(document), default=float) + "\n")
