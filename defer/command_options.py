"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from defer.command_routers import ROUTERS

__all__ = [
    "DEFAULT_ROUTER",
    "Columns",
    "Features",
    "Json",
    "LogFile",
    "LogText",
    "MeanCost",
    "Policy",
    "PolicyText",
    "RouterName",
    "SplitBy",
    "TrainingLog",
    "Trust",
]


# Members are the names of the table, which mypy cannot follow.
RouterName = StrEnum("RouterName", {name: name for name in ROUTERS})  # type: ignore[misc]
"""Routers that `fit` knows."""

DEFAULT_ROUTER = RouterName("quality")


class SplitBy(StrEnum):
    """What `split` keeps together."""

    cluster = "cluster"
    time = "time"
    random = "random"


LogFile = Annotated[
    Path,
    typer.Argument(
        metavar="LOG", help="Outcome log, a Parquet file: wide (score:ARM, cost_usd:ARM, latency_s:ARM) or long."
    ),
]
Policy = Annotated[Path, typer.Argument(metavar="POLICY", help="Folder of a saved policy.")]
LogText = Annotated[
    str | None,
    typer.Option(
        "--text", metavar="COLUMN", help="Column with the text of the query.  Default: 'prompt', if there is one."
    ),
]
PolicyText = Annotated[
    str | None,
    typer.Option(
        "--text", metavar="COLUMN", help="Column with the text of the query.  Default: what the policy was fitted on."
    ),
]
TrainingLog = Annotated[
    Path | None,
    typer.Option(
        "--train",
        metavar="LOG",
        help="What the policy was fitted on: to check that no text stands in both, and to pick the baseline there.",
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
