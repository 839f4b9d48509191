"""The house keeps its plan: floors, doors, light imports, and no module that does too much or nothing at all."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "defer"
DOORS = ("losses", "estimators", "portfolios")
ENTRIES = {"defer", "defer.__main__", "defer.cli", "defer.portfolios.tiny.build"}
HEAVY = (
    "sklearn",
    "scipy",
    "numpy",
    "torch",
    "mlflow",
    "vllm",
    "ray",
    "matplotlib",
    "cvxpy",
    "pandas",
    "polars",
    "pyarrow",
)
NEEDS_EXTRA = ("defer.portfolios.tiny.build", "defer.portfolios.tiny.model")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def floor_of(module: str) -> int:
    """0 for what everybody may use, 1 losses, 2 portfolios, 3 estimators, 4 the roof."""
    if module in ("defer.exceptions", "defer._version"):
        return 0
    second = module.split(".")[1] if "." in module else ""
    return {"losses": 1, "portfolios": 2, "estimators": 3}.get(second, 4)


def imports_of(module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module of ours that is imported, at the top or inside a function."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "defer")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "defer":
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield node.lineno, longer if longer in MODULES else node.module


def run_python(code: str, *flags: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_package_is_found() -> None:
    assert len(MODULES) > 40
    assert {"defer.losses", "defer.portfolios", "defer.estimators", "defer.evaluation"} < set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    upward = [f"line {line} imports {name}" for line, name in imports_of(module) if floor_of(name) > floor_of(module)]
    assert upward == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_absolute_and_nothing_unpickles(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            first = node.names[0].name if isinstance(node, ast.Import) else node.module
            assert str(first).split(".")[0] not in {"pickle", "cloudpickle", "dill", "shelve", "marshal"}, (
                f"line {node.lineno}"
            )


def test_every_module_is_reached() -> None:
    reached = {name for module in MODULES for _, name in imports_of(module) if name != module}
    parents = {".".join(name.split(".")[:depth]) for name in reached for depth in range(1, name.count(".") + 1)}
    roof = {f"defer.{name}" for name in importlib.import_module("defer").__all__}
    assert set(MODULES) - reached - parents - roof - ENTRIES == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_two_ideas(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 410


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_named_after_an_idea_and_say_which(module: str) -> None:
    assert module.rsplit(".", 1)[-1] not in {"utils", "helpers", "common", "manager", "handler", "base_utils", "misc"}
    if module != "defer._version":
        assert ast.get_docstring(tree_of(module)), "no docstring"


@pytest.mark.parametrize("door", DOORS)
def test_a_door_is_a_relative_link_that_refuses_to_be_imported(door: str) -> None:
    assert (ROOT / door).is_symlink()
    assert os.readlink(ROOT / door) == f"defer/{door}"
    done = run_python(f"import {door}")
    assert done.returncode == 1
    assert f"ImportError: this folder is a door to defer.{door}: write 'import defer.{door}'" in done.stderr


def test_the_root_holds_no_other_link_and_no_other_package() -> None:
    links = {path.name for path in ROOT.iterdir() if path.is_symlink()}
    assert links == set(DOORS)
    assert {path.parent.name for path in ROOT.glob("*/__init__.py") if not path.parent.is_symlink()} == {"defer"}


def test_importing_defer_is_light() -> None:
    done = run_python(f"import sys, defer, json; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_help_of_the_command_line_is_light() -> None:
    code = (
        "import sys, json\nfrom typer.testing import CliRunner\nfrom defer.cli import app\n"
        "assert CliRunner().invoke(app, ['fit', '--help']).exit_code == 0\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_importing_everything_loads_no_optional_part_and_touches_nothing() -> None:
    """No network, no process, no file written; drawing, MLflow, torch and solvers wait for their first use.

    pandas is not in the list, because scikit-learn loads it where it is installed.
    """
    wanted = [module for module in MODULES if module not in (*NEEDS_EXTRA, "defer.__main__")]
    code = f"""
import importlib, json, sys
events = []
def hook(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.mkdir", "os.rename", "os.remove", "urllib.")):
        events.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        events.append(f"open {{arguments[0]}}")
sys.addaudithook(hook)
for name in {wanted}:
    importlib.import_module(name)
optional = ("torch", "mlflow", "vllm", "ray", "matplotlib", "cvxpy", "polars", "duckdb", "sentence_transformers")
print(json.dumps([events, [name for name in optional if name in sys.modules]]))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    events, loaded = json.loads(done.stdout)
    assert [event for event in events if event not in ("socket.__new__", "socket.gethostname")] == []
    assert loaded == []


def test_lazy_names_resolve_and_are_listed() -> None:
    defer = importlib.import_module("defer")
    for name in defer.__all__:
        assert getattr(defer, name) is not None
    assert set(defer.__all__) <= set(dir(defer))
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = defer.nothing_of_ours


def test_type_checkers_and_users_see_the_same_names() -> None:
    """The lazy table and the imports under TYPE_CHECKING are written twice; they must agree."""
    guarded = [node for node in tree_of("defer").body if isinstance(node, ast.If)]
    named = {alias.name for node in ast.walk(guarded[0]) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named | {"__version__"} == set(importlib.import_module("defer").__all__)


def test_the_version_is_written_once() -> None:
    defer = importlib.import_module("defer")
    assert (PACKAGE / "_version.py").read_text().strip() == f'__version__ = "{defer.__version__}"'
    others = [
        name
        for name, path in MODULES.items()
        if f'"{defer.__version__}"' in path.read_text() and name != "defer._version"
    ]
    assert others == []


def test_the_package_is_typed_and_carries_its_data() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert {path.name for path in (PACKAGE / "data").iterdir()} == {"tiny.parquet", "tiny.md"}
