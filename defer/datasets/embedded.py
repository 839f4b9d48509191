"""Outcome logs that ship with the library."""

from __future__ import annotations

from importlib.resources import as_file, files

from defer.portfolios.outcomes import OutcomeLog

__all__ = ["load_tiny"]


def load_tiny() -> OutcomeLog:
    """Outcomes of five tiny language models on ten text tasks with verifiable answers.

    The project trained the models, ran them and graded the answers (``python -m defer.portfolios.tiny.build``); nothing
    was simulated.  Prices are set by us in proportion to the number of parameters; latency is the measured wall time of
    one answer on a CPU.  The card ``tiny.md`` beside the file says more.

    Returns
    -------
    OutcomeLog
        Full information with cost and latency; the task is the domain.

    Examples
    --------
    >>> load_tiny().arms[-1]
    'large-generalist'
    """
    with as_file(files("defer") / "data" / "tiny.parquet") as path:
        return OutcomeLog.read_parquet(path, text="prompt")
