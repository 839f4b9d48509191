"""MLflow: evaluations as runs, routers as models.  Needs the ``mlflow`` extra, loaded on first use."""

from __future__ import annotations

import functools
import json
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from defer.evaluation import evaluation as _evaluation
from defer.evaluation.evaluation import Evaluation
from defer.exceptions import MissingExtraError
from defer.persistence import load, save

__all__ = ["RouterModel", "autolog", "log_evaluation", "metrics_of", "save_model"]


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError:
        raise MissingExtraError("mlflow", "mlflow") from None
    return mlflow


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """Finite numbers of an evaluation, with interval bounds as ``…_low`` and ``…_high``."""
    found: dict[str, float] = {}
    for estimate in (evaluation.estimate, *evaluation.estimate.others):
        found |= {
            estimate.outcome: estimate.value,
            f"{estimate.outcome}_low": estimate.low,
            f"{estimate.outcome}_high": estimate.high,
        }
    gap = evaluation.difference
    found |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
    found |= {
        "ess": evaluation.estimate.ess,
        "ece": evaluation.calibration.ece,
        "load_entropy": evaluation.load_entropy,
    }
    if evaluation.has_frontier:
        found["aiq"] = evaluation.aiq()
    if evaluation.is_two_arm:
        found["apgr"] = evaluation.apgr()
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def log_evaluation(evaluation: Evaluation, *, run_name: str | None = None) -> str:
    """Log an evaluation to MLflow: parameters, metrics with interval bounds, report and frontier as artefacts.

    Parameters
    ----------
    evaluation : Evaluation
    run_name : str, optional

    Returns
    -------
    str
        Identifier of the run: the active one, or one opened and closed here.

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    """
    mlflow = _mlflow()
    run = mlflow.active_run()
    if run is None:
        with mlflow.start_run(run_name=run_name) as opened:
            _log(mlflow, evaluation)
            return str(opened.info.run_id)
    _log(mlflow, evaluation)
    return str(run.info.run_id)


def _log(mlflow: Any, evaluation: Evaluation) -> None:
    mlflow.log_params(
        {
            "router": evaluation.router,
            "limit": repr(evaluation.limit),
            "baseline": evaluation.baseline,
            "level": evaluation.level,
            "n_queries": len(evaluation.log),
            "arms": json.dumps(evaluation.log.arms)[:500],
        }
    )
    mlflow.log_metrics(metrics_of(evaluation))
    with tempfile.TemporaryDirectory() as folder:
        evaluation.to_html(Path(folder) / "report.html")
        drawings = {"load": evaluation.plot_load, "calibration": evaluation.plot_calibration}
        if evaluation.has_frontier:
            drawings["frontier"] = evaluation.plot_frontier
        for name, draw in drawings.items():
            figure: Any = draw().figure
            figure.savefig(Path(folder) / f"{name}.png", dpi=150)
        mlflow.log_artifacts(folder, artifact_path="defer")


def autolog(*, disable: bool = False) -> None:
    """Log every evaluation made by ``defer.evaluation.evaluation.evaluate`` from here on.

    Parameters
    ----------
    disable : bool, default=False
        Stop doing so.
    """
    _mlflow()
    plain = getattr(_evaluation.evaluate, "__wrapped__", _evaluation.evaluate)
    if disable:
        _install(plain)
        return

    @functools.wraps(plain)
    def logged(*arguments: Any, **options: Any) -> Evaluation:
        result = plain(*arguments, **options)
        log_evaluation(result)
        return result

    _install(logged)


def _install(function: Any) -> None:
    import defer
    import defer.evaluation

    for module in (_evaluation, defer.evaluation, defer):
        setattr(module, "evaluate", function)  # noqa: B010  # the name is read by callers at call time


class RouterModel:
    """What MLflow loads: ``predict`` takes a frame or list of queries and gives the arm, its propensity and predictions.

    Parameters
    ----------
    folder : path, optional
        Of a saved policy; MLflow hands it over through `load_context`.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def load_context(self, context: Any) -> None:
        """Load the policy when MLflow serves the model."""
        self.folder = context.artifacts["policy"]

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Rows with arm, propensity, predicted quality and cost."""
        import pandas as pd

        router = load(str(self.folder))
        queries = _queries(model_input)
        routing = router.route(queries, random_state=0)
        return pd.DataFrame(
            {"arm": routing.label, "propensity": routing.propensity, "quality": routing.quality, "cost": routing.cost}
        )


def _queries(model_input: Any) -> Any:
    columns = getattr(model_input, "columns", None)
    if columns is None:
        return list(model_input)
    if len(columns) == 1:
        values = model_input.iloc[:, 0]
        return values.tolist() if isinstance(values.iloc[0], str) else model_input.to_numpy()
    return model_input.to_numpy()


def save_model(router: Any, path: str | PathLike[str]) -> None:
    """Save a router as an MLflow model, for ``mlflow.pyfunc.load_model`` and ``mlflow models predict``.

    Parameters
    ----------
    router : fitted router
    path : path
        Folder that must not exist yet.

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    """
    mlflow = _mlflow()

    class Served(RouterModel, mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        pass

    with tempfile.TemporaryDirectory() as folder:
        save(router, Path(folder) / "policy")
        mlflow.pyfunc.save_model(
            str(path),
            python_model=Served(),
            artifacts={"policy": str(Path(folder) / "policy")},
            pip_requirements=["defer-learn", "pandas"],
        )
