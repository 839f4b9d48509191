"""Public names: `__all__` says all of them, and each explains itself and its parameters."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "defer", "defer.losses", "defer.estimators", "defer.portfolios", "defer.evaluation", "defer.report", "defer.datasets",
    "defer.persistence", "defer.tracking", "defer.export",
)  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in sorted((ROOT / "defer").rglob("*.py"))}
MODULES = [name for name in PATHS if name not in ("defer.__main__", "defer._version")]


def load(module: str) -> ModuleType:
    if ".tiny." in module:
        pytest.importorskip("torch")
    return importlib.import_module(module)


def public_objects() -> dict[str, Any]:
    """Every class and function that a public package names, once."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


PUBLIC = public_objects()


def is_command(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether a function is called by the command line and not by name."""
    return any("app.command" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("module", MODULES)
def test_all_names_what_the_module_defines(module: str) -> None:
    body = ast.parse(PATHS[module].read_text(encoding="utf-8")).body
    definitions = [node for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    defined = {node.name for node in definitions if not (node.name.startswith("_") or is_command(node))}
    exported = getattr(load(module), "__all__", None)
    if exported is None:
        assert not defined
        return
    assert defined - set(exported) == set()
    assert len(set(exported)) == len(exported)
    missing = [name for name in exported if not hasattr(load(module), name)]
    assert missing == []


def parameters_of(thing: Any) -> list[str]:
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing) if field.init and not field.name.startswith("_")]
    if inspect.isclass(thing) and "__init__" not in vars(thing):
        return []  # explained where it was written
    names = list(inspect.signature(thing).parameters)
    return [name for name in names if name not in ("self", "args", "kwargs", "arguments")]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_explains_itself_and_its_parameters(name: str) -> None:
    thing = PUBLIC[name]
    text = inspect.getdoc(thing) or ""
    assert len(text) > 10
    unexplained = [one for one in parameters_of(thing) if not re.search(rf"\b{re.escape(one)}\b", text)]
    assert unexplained == []


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if inspect.isclass(thing)])
def test_public_methods_have_a_docstring(name: str) -> None:
    members = vars(PUBLIC[name]).items()
    bare = [
        member
        for member, value in members
        if not member.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, (property, classmethod)))
        and not inspect.getdoc(getattr(PUBLIC[name], member))
    ]
    assert bare == []


# Names without an example of their own, and why.
SHOWN_ELSEWHERE = {
    "defer.estimators.base.BaseRouter": "abstract: every router shows it",
    "defer.estimators.deferral.face.BaseDeferral": "abstract: every deferral estimator shows it",
    "defer.estimators.dialogue.RoutedTurn": "made by DialogueRouter, whose example reads some",
    "defer.estimators.embedding_cache.CacheInfo": "made by EmbeddingCache.info, shown there",
    "defer.estimators.explain.Explanation": "made by explain",
    "defer.estimators.session_turns.SessionRouting": "made by SessionRouter, whose example reads one",
    "defer.estimators.tuning.operating_point.OperatingPoint": "made by TunedRouter, whose example reads one",
    "defer.evaluation.audit.Audit": "made by audit",
    "defer.evaluation.audit.Finding": "made by audit",
    "defer.evaluation.calibration.Calibration": "made by calibration",
    "defer.evaluation.frontier.Frontier": "made by sweep",
    "defer.evaluation.result.Evaluation": "made by evaluate",
    "defer.evaluation.task_rank.TaskRanks": "made by task_ranks",
    "defer.evaluation.throughput.MixtureCost": "made by mixture_cost",
    "defer.evaluation.throughput.RouterOverhead": "made by router_overhead",
    "defer.evaluation.throughput.Throughput": "made by mixture_throughput",
    "defer.export.runtime.NumpyPolicy": "reads a file: see to_numpy",
    "defer.portfolios.summary.LogSummary": "made by OutcomeLog.summary",
    **{
        f"defer.evaluation.estimators.{name}": "handed to estimate_value, whose example takes one"
        for name in ("DM", "DR", "DR_OS", "DR_PS", "IPS", "SNDR", "SNIPS", "ClippedIPS", "Replay", "Switch")
    },
    "defer.report.page.write_report": "writes a file: see render_report",
    **{
        f"defer.tracking.{name}": "needs a store of MLflow: see tests/test_tracking.py"
        for name in ("autolog", "load_model", "log_evaluation", "log_model", "save_model")
    },
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example_or_a_reason_for_none(name: str) -> None:
    has_example = ">>> " in (inspect.getdoc(PUBLIC[name]) or "")
    assert has_example or name in SHOWN_ELSEWHERE


def test_reasons_for_no_example_name_what_is_there() -> None:
    assert set(SHOWN_ELSEWHERE) - set(PUBLIC) == set()
