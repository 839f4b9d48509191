"""MLflow: evaluations as runs, routers as models.  Needs the ``mlflow`` extra, loaded on first use.

A router is saved with the flavour ``defer``, whose data is a policy folder of `defer.save` (no pickle), and as a
``python_function``, so that ``mlflow.pyfunc.load_model``, ``mlflow models predict`` and ``mlflow models serve`` take it.
"""

from __future__ import annotations

import platform
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from defer._version import __version__
from defer.evaluation.evaluation import OBSERVERS
from defer.evaluation.result import Evaluation
from defer.exceptions import DeferWarning, MissingExtraError, PersistenceError, RouterInputError
from defer.fingerprint import log_hash
from defer.persistence import check_queries, load, manifest, save
from defer.portfolios.outcomes import OutcomeLog

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["RouterModel", "autolog", "load_model", "log_evaluation", "log_model", "metrics_of", "save_model"]

FLAVOR_NAME = "defer"
_DATA = "policy"
_LONGEST_KEY, _LONGEST_PARAMETER = 200, 6000


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """Finite numbers of an evaluation, with interval bounds as ``…_low`` and ``…_high``.

    Parameters
    ----------
    evaluation : Evaluation

    Returns
    -------
    dict of str to float
        ``quality``, ``cost`` (US dollars per query), ``latency`` (seconds), ``difference`` and ``cost_difference`` to the
        baseline, each with bounds; ``ess``, ``ece``, ``load_entropy``, ``load/ARM``; ``aiq`` and ``apgr`` where they exist.

    Examples
    --------
    >>> from defer import OutcomeLog, evaluate
    >>> from defer.estimators import SingleArm
    >>> log = OutcomeLog.from_arrays([[0.0]] * 4, [[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> metrics_of(evaluate(SingleArm().fit(log.X, log.quality), log))["quality"]
    0.75
    """
    found: dict[str, float] = {}
    parts: list[tuple[str, Any]] = [(part.outcome, part) for part in (evaluation.estimate, *evaluation.estimate.others)]
    parts.append(("difference", evaluation.difference))
    if evaluation.cost_difference is not None:
        parts.append(("cost_difference", evaluation.cost_difference))
    for name, part in parts:
        found |= {name: part.value, f"{name}_low": part.low, f"{name}_high": part.high}
    found |= {"ess": evaluation.estimate.ess, "load_entropy": evaluation.load_entropy}
    found |= {f"load/{_key(arm)}": share for arm, share in evaluation.load.items()}
    if evaluation.predicted_quality is not None:
        found["ece"] = evaluation.calibration.ece
    if evaluation.has_frontier:
        found["aiq"] = evaluation.aiq()
    if evaluation.is_two_arm:
        found["apgr"] = evaluation.apgr()
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def log_evaluation(evaluation: Evaluation, *, run_name: str | None = None) -> str:
    """Log an evaluation to MLflow: parameters, metrics with interval bounds, report and pictures as artefacts.

    Parameters
    ----------
    evaluation : Evaluation
    run_name : str, optional
        Of the run that is opened where none is active, or inside the active one.

    Returns
    -------
    str
        Identifier of the run: the active one, or one opened and closed here.

    Notes
    -----
    A run holds one value of a parameter.  If the active run already has other values of these parameters or metrics,
    such as those of another evaluation, a nested run is opened for this one.

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    """
    mlflow = _mlflow()
    run, parameters, metrics = mlflow.active_run(), _parameters_of(evaluation), metrics_of(evaluation)
    if run is not None:
        known = mlflow.get_run(run.info.run_id).data
        if _agrees(known.params, parameters) and _agrees(known.metrics, metrics):
            _log(mlflow, evaluation, parameters, metrics)
            return str(run.info.run_id)
    with mlflow.start_run(run_name=run_name, nested=run is not None) as opened:
        _log(mlflow, evaluation, parameters, metrics)
        return str(opened.info.run_id)


def autolog(*, disable: bool = False) -> None:
    """Log every evaluation from here on; one that MLflow does not take is reported by a warning and goes on.

    Parameters
    ----------
    disable : bool, default=False
        Stop doing so.

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    """
    _mlflow()
    while _observe in OBSERVERS:
        OBSERVERS.remove(_observe)
    if not disable:
        OBSERVERS.append(_observe)


def save_model(
    router: Any,
    path: str | PathLike[str],
    *,
    queries: Mapping[str, Any] | None = None,
    log: OutcomeLog | None = None,
    metrics: Mapping[str, float] | None = None,
    trusted: Sequence[str] = (),
    mlflow_model: Any = None,
) -> None:
    """Save a router as an MLflow model.

    Parameters
    ----------
    router : fitted router
    path : path
        Folder that must not exist yet, or be empty.
    queries : mapping, optional
        Columns of the queries, ``{"text": column}`` or ``{"features": [columns]}``; they become the model's signature.
    log, metrics : optional
        For the manifest, as for `defer.save`.
    trusted : sequence of str, default=()
        As for `defer.save`.  MLflow finds them in the MLmodel file; `load_model` must be given them again.
    mlflow_model : mlflow.models.Model, optional
        Handed over by MLflow when it logs the model.

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    PersistenceError
        If the folder is not empty, the router cannot be saved, or `queries` says neither ``text`` nor ``features``.
    """
    mlflow = _mlflow()
    check_queries(queries)
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PersistenceError(f"{str(folder)!r} exists already; an MLflow model needs a folder of its own")
    save(router, folder / _DATA, log=log, queries=queries, metrics=metrics, trusted=trusted)
    model = mlflow.models.Model() if mlflow_model is None else mlflow_model
    if queries is not None:
        model.signature = _signature(mlflow, router, queries)
    environment = "python_env.yaml"
    # MLflow believes the MLmodel file, which names the very code to run; so the types may stand in it as well.
    config = {"trusted": list(trusted)}
    mlflow.pyfunc.add_to_model(model, loader_module=__name__, data=_DATA, python_env=environment, model_config=config)
    model.add_flavor(FLAVOR_NAME, data=_DATA, defer_version=__version__)
    model.save(str(folder / "MLmodel"))
    requirements = [
        f"defer-learn=={__version__}",
        f"mlflow=={version('mlflow')}",
        f"scikit-learn=={version('scikit-learn')}",
    ]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    (folder / environment).write_text(
        f'python: "{platform.python_version()}"\ndependencies:\n- -r requirements.txt\n', encoding="utf-8"
    )


def log_model(router: Any, name: str = "router", *, registered_model_name: str | None = None, **options: Any) -> Any:
    """Log a router as an MLflow model.

    Parameters
    ----------
    router : fitted router
    name : str, default="router"
    registered_model_name : str, optional
        Register it under this name, too.
    **options
        `queries`, `log`, `metrics` and `trusted`, as for `save_model`.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Its ``model_uri`` is what `load_model` takes.

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    """
    import defer.tracking

    mlflow = _mlflow()
    check_queries(options.get("queries"))
    return mlflow.models.Model.log(
        artifact_path=None, name=name, flavor=defer.tracking, registered_model_name=registered_model_name,
        router=router, **options,
    )  # fmt: skip


def load_model(model_uri: str | PathLike[str], *, trusted: Sequence[str] = ()) -> Any:
    """Load a router that was saved or logged as an MLflow model.

    Parameters
    ----------
    model_uri : path or str
        A folder, or a URI such as ``models:/router/1`` or ``runs:/<run>/router``.
    trusted : sequence of str, default=()
        As for `defer.load`.

    Returns
    -------
    fitted router

    Raises
    ------
    MissingExtraError
        If MLflow is not installed.
    PersistenceError
        If the model has no flavour ``defer``, or its policy cannot be loaded.
    """
    mlflow = _mlflow()
    folder = Path(model_uri)
    if not folder.is_dir():
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=str(model_uri)))
    if not (folder / "MLmodel").is_file():
        raise PersistenceError(f"{str(model_uri)!r} is no MLflow model: it has no file MLmodel")
    flavors = mlflow.models.Model.load(str(folder / "MLmodel")).flavors
    if FLAVOR_NAME not in flavors:
        raise PersistenceError(f"{str(model_uri)!r} has no flavour {FLAVOR_NAME!r}; it has {sorted(flavors)}")
    return load(folder / flavors[FLAVOR_NAME]["data"], trusted=trusted)


class RouterModel:
    """What MLflow serves: queries in, a frame with arm, propensity and predictions out.

    Parameters
    ----------
    router : fitted router
    queries : mapping, optional
        Columns of the queries, as for `save_model`.  Without it a frame of one text column is read as text, and any
        other frame as numbers.
    random_state : int, optional
        Draws the randomised group.  Leave it out when serving: with a seed, every query that comes alone would get the
        same draw.

    Examples
    --------
    >>> from defer.estimators import SingleArm
    >>> router = SingleArm().fit([[0.0], [1.0]], [[1.0, 0.0], [0.5, 0.0]], cost=[[0.1, 0.2], [0.1, 0.2]])
    >>> RouterModel(router).predict(np.array([[0.0]])).to_dict("records")
    [{'arm': 0, 'propensity': 1.0, 'quality': 0.75, 'cost': 0.1}]
    """

    def __init__(
        self, router: Any, queries: Mapping[str, Any] | None = None, *, random_state: int | None = None
    ) -> None:
        self.router = router
        self.queries = queries
        self._random = np.random.RandomState(random_state)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> DataFrame:
        """Arm, propensity, predicted quality and predicted cost of every query; the cost is NaN if the router knows none.

        Parameters
        ----------
        model_input : frame, array or list of n queries
        params : dict, optional
            Not used; MLflow hands it over.

        Raises
        ------
        RouterInputError
            If a column is missing, or a text is none.
        """
        import pandas as pd

        routing = self.router.route(_queries(model_input, self.queries), random_state=self._random)
        cost = routing.cost if self.router.has_cost_ else np.full(len(routing), np.nan)
        return pd.DataFrame(
            {"arm": routing.label, "propensity": routing.propensity, "quality": routing.quality, "cost": cost}
        )


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> RouterModel:
    trusted = (model_config or {}).get("trusted", ())
    return RouterModel(load(path, trusted=trusted), manifest(path)["queries"])


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError:
        raise MissingExtraError("mlflow", "mlflow") from None
    return mlflow


def _agrees(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(known.get(name, value) == value for name, value in wanted.items())


def _parameters_of(evaluation: Evaluation) -> dict[str, str]:
    parameters = {
        "router": evaluation.router,
        "limit": repr(evaluation.limit),
        "baseline": evaluation.baseline,
        "level": evaluation.level,
        "estimator": evaluation.estimate.estimator,
        "interval": evaluation.estimate.interval,
        "n_queries": len(evaluation.log),
        "arms": ", ".join(evaluation.log.arms),
        "log": log_hash(evaluation.log),
        "defer": __version__,
        **{f"router/{_key(name)}": value for name, value in evaluation.configuration.items()},
    }
    return {name: _shortened(str(value)) for name, value in parameters.items()}


def _log(mlflow: Any, evaluation: Evaluation, parameters: dict[str, str], metrics: dict[str, float]) -> None:
    mlflow.log_params(parameters)
    mlflow.log_metrics(metrics)
    pictures = {"load": evaluation.plot_load}
    if evaluation.predicted_quality is not None:
        pictures["calibration"] = evaluation.plot_calibration
    if evaluation.has_frontier:
        pictures["frontier"] = evaluation.plot_frontier
    if evaluation.log.domain is not None:
        pictures["domains"] = evaluation.plot_domains
    with tempfile.TemporaryDirectory() as folder:
        evaluation.to_html(Path(folder) / "report.html")
        for name, draw in pictures.items():
            figure: Any = draw().figure
            figure.savefig(Path(folder) / f"{name}.png", dpi=150)
        mlflow.log_artifacts(folder, artifact_path="defer")


def _observe(evaluation: Evaluation) -> None:
    mlflow = _mlflow()
    try:
        log_evaluation(evaluation)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        warnings.warn(f"autolog: MLflow did not take the evaluation: {error}", DeferWarning, stacklevel=3)


def _key(name: str) -> str:
    """The name with what MLflow refuses in keys replaced, at a length that it takes."""
    return re.sub(r"[^\w.\- ]", "_", name)[:_LONGEST_KEY]


def _shortened(value: str) -> str:
    return value if len(value) <= _LONGEST_PARAMETER else value[: _LONGEST_PARAMETER - 1] + "…"


def _signature(mlflow: Any, router: Any, queries: Mapping[str, Any]) -> Any:
    column, schema = mlflow.types.ColSpec, mlflow.types.Schema
    if "text" in queries:
        inputs = [column("string", queries["text"])]
    else:
        inputs = [column("double", name) for name in queries["features"]]
    kinds = {"U": "string", "b": "boolean", "i": "long", "u": "long", "f": "double"}
    arms = np.asarray(router.arms_.tolist())
    outputs = [column(kinds.get(arms.dtype.kind, "string"), "arm")]
    outputs += [column("double", name) for name in ("propensity", "quality", "cost")]
    return mlflow.models.ModelSignature(inputs=schema(inputs), outputs=schema(outputs))


def _queries(model_input: Any, queries: Mapping[str, Any] | None) -> Any:
    columns = list(getattr(model_input, "columns", []))
    if not columns:
        values = np.asarray(model_input)
        return values.tolist() if values.dtype.kind in "UO" and values.ndim == 1 else values
    wanted = dict(queries or {})
    names = [wanted["text"]] if "text" in wanted else list(wanted.get("features", columns))
    missing = [name for name in names if name not in columns]
    if missing:
        raise RouterInputError(f"column {missing[0]!r} is missing; the columns are {columns[:20]}")
    texts = model_input[names[0]].tolist()
    if "text" not in wanted and not (len(names) == 1 and texts and isinstance(texts[0], str)):
        return model_input[names].to_numpy()
    wrong = [row for row, value in enumerate(texts) if not isinstance(value, str)]
    if wrong:
        raise RouterInputError(
            f"column {names[0]!r} has {len(wrong)} of {len(texts)} values that are no text, the first in row {wrong[0]} "
            f"({texts[wrong[0]]!r})"
        )
    return texts
