"""The command ``defer explain``: why a saved policy sends one query where it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from defer.command_files import check_file, policy_columns, read_log
from defer.command_options import Columns, Features, Json, Policy, PolicyText, Trust
from defer.exceptions import DeferError
from defer.terminal import print_json, say, steps

__all__ = ["explain"]

_PICTURES = (".pdf", ".png", ".svg")


def explain(
    policy: Policy,
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY", help="The text, or a JSON object of the policy's numbers; - is standard input."
        ),
    ],
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="Outcome log, best held out: for uncertainty and similar queries."),
    ] = None,
    neighbors: Annotated[int, typer.Option("--neighbors", min=1, help="Similar logged queries to show.")] = 5,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write a picture: .png, .svg or .pdf.")
    ] = None,
    text: PolicyText = None,
    feature: Features = None,
    trust: Trust = None,
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Explain one decision: predictions, the price at which it flips, and with --log what happened on similar queries."""
    from defer.estimators.explain import explain as explain_query
    from defer.persistence import load, log_hash, manifest
    from defer.query_lines import read_query

    if plot is not None:
        if plot.suffix.lower() not in _PICTURES:
            raise DeferError(f"{plot}: --plot writes {', '.join(_PICTURES)}, by the ending of the name")
        check_file(plot)
    document = manifest(policy)
    columns = policy_columns(text, feature, document)
    asked = read_query(query, columns)
    with steps() as step:
        data = None
        if log is not None:
            step("read the log")
            data = read_log(log, columns, column, needs_queries=True)
            if document["training_log"] == log_hash(data):
                say("warning", f"--log: {log} is what the policy was fitted on: its ranges are too narrow")
        step("explain")
        found = explain_query(load(policy, trusted=trust or ()), asked, log=data, n_neighbors=neighbors)
        if plot is not None:
            from defer.evaluation.explanation_plot import plot_explanation

            figure: Any = plot_explanation(found)[0].figure
            figure.savefig(plot)
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo(str(found))
