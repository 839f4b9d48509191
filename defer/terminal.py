"""How the command line speaks: one line for an error or a warning, progress aside, tables and JSON on standard output."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from defer.exceptions import DeferError, DeferWarning

if TYPE_CHECKING:
    from defer.evaluation.result import Evaluation

__all__ = ["LineCommand", "LineGroup", "counted", "print_json", "say", "show_evaluation", "steps"]

_out, _err = Console(highlight=False), Console(stderr=True, highlight=False)


class LineGroup(TyperGroup):
    """Takes ``--debug`` anywhere on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the option to where the group reads it."""
        debug = ["--debug"] if "--debug" in args else []
        return super().parse_args(ctx, debug + [argument for argument in args if argument != "--debug"])


class LineCommand(TyperCommand):
    """Turns every error into one line, and every warning too."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", DeferWarning)
            warnings.showwarning = _warn
            try:
                super().invoke(ctx)
                sys.stdout.flush()  # here, where a closed pipe is handled, and not when the interpreter ends
            except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
                raise
            except KeyboardInterrupt:
                say("interrupted")
                raise typer.Exit(130) from None
            except Exception as error:
                if ctx.find_root().params.get("debug"):
                    raise
                say("error", _one_line(error))
                raise typer.Exit(1) from None


def say(kind: str, text: str = "") -> None:
    """Print one line on standard error.

    Parameters
    ----------
    kind : str
        "error", "warning" or a word of its own.
    text : str, default=""
    """
    colour = {"error": "bold red", "warning": "yellow"}.get(kind, "")
    _err.print(Text.assemble((kind, colour), f": {text}" if text else ""), soft_wrap=True)


def counted(n: int, one: str, many: str) -> str:
    """A number with its noun.

    Parameters
    ----------
    n : int
    one, many : str
        The noun in singular and plural.

    Examples
    --------
    >>> counted(1, "query", "queries"), counted(2000, "query", "queries")
    ('1 query', '2,000 queries')
    """
    return f"{n:,} {one if n == 1 else many}"


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    say("warning", " ".join(str(message).split()))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return text if isinstance(error, DeferError) else f"{type(error).__name__}: {text} (--debug shows where)"


@contextmanager
def steps(*, quiet: bool = False) -> Iterator[Any]:
    """Show the step that is running on standard error, if that is a terminal.

    Parameters
    ----------
    quiet : bool, default=False
        Show nothing.

    Yields
    ------
    callable
        Takes the name of the next step.
    """
    if quiet or not _err.is_terminal:
        # Even a disabled progress line would leave an empty one behind.
        yield lambda name: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # Standard output is the result: rich must not carry it over to the progress line.
    with Progress(*columns, console=_err, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("start", total=None)
        yield lambda name: progress.update(task, description=name)


def show_evaluation(evaluation: Evaluation, as_json: bool, *, report: Path | None, policy: Path | None = None) -> None:
    """Print the table and the verdict of an evaluation, and where its files are.

    Parameters
    ----------
    evaluation : Evaluation
    as_json : bool
        One JSON object instead.
    report, policy : Path or None
    """
    from defer.report.verdict import verdict

    rows = list(evaluation.frame.iter_rows(named=True))
    if as_json:
        gap = evaluation.difference
        paths = {"report": report, "policy": policy}
        print_json(
            {
                "policies": rows,
                "difference": {"value": gap.value, "low": gap.low, "high": gap.high, "baseline": evaluation.baseline},
                "verdict": verdict(evaluation),
                "load": evaluation.load,
                "n_leaked": evaluation.n_leaked,
                "warnings": list(evaluation.estimate.warnings),
                **{name: str(path) for name, path in paths.items() if path is not None},
            }
        )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("policy", "quality", "interval", "cost ($)"):
        left = name == "policy"
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in rows:
        cost, low, high = (_blank_if_nan(row.get(name)) for name in ("cost", "quality_low", "quality_high"))
        table.add_row(
            Text(str(row["policy"])),
            f"{row['quality']:.4f}",
            "" if low is None or high is None else f"{low:.4f} … {high:.4f}",
            "" if cost is None else f"{cost:.3g}",
        )
    _out.print(table)
    for sentence in verdict(evaluation):
        typer.echo(sentence)
    for name, path in (("policy", policy), ("report", report)):
        if path is not None:
            typer.echo(f"{name}: {path}")


def _blank_if_nan(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON object on a line; numbers that are not finite become null.

    Parameters
    ----------
    document : dict
    """

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    typer.echo(json.dumps(finite(document), default=float))
