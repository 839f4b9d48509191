"""The wheel: it holds the package and nothing else, and works in an empty environment outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import defer

pytestmark = pytest.mark.wheel


def call(command: list[str | Path], cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, repository], folder)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    source = {
        path.relative_to(repository).as_posix()
        for path in (repository / "defer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == source
    assert {
        "defer/py.typed",
        "defer/data/tiny.parquet",
        "defer/data/tiny.md",
        "defer/report/template.html.j2",
    } <= inside
    assert wheel.stat().st_size < 2 * 2**20


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        meta = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entry = archive.read(f"{folder}/entry_points.txt").decode()
        assert any(name.startswith(f"{folder}/licenses/") for name in archive.namelist())
    assert (meta["Name"], meta["Version"]) == ("defer-learn", defer.__version__)
    assert "defer = defer.cli:main" in entry
    core = {line.split(";")[0].strip() for line in meta.get_all("Requires-Dist", []) if "extra ==" not in line}
    named = {line.split(">")[0].split("=")[0].split("[")[0].strip() for line in core}
    assert not named & {"torch", "mlflow", "pandas", "polars", "vllm", "ray"}
    assert {"numpy", "scipy", "scikit-learn", "narwhals", "pyarrow", "skops", "typer"} <= named


def test_an_empty_environment_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    call([programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel], tmp_path)
    assert call([programs / "defer", "--version"], tmp_path).strip() == defer.__version__
    document = json.loads(call([programs / "defer", "demo", "--json"], tmp_path))
    assert document["policies"][0]["policy"] == "routing"
    assert document["difference"]["low"] > 0
    page = tmp_path / document["report"]
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    query = tmp_path / "query.jsonl"
    query.write_text('{"prompt": "sort 3 1 2"}\n')
    routed = json.loads(call([programs / "defer", "route", document["policy"], query], tmp_path))
    assert routed["arm"] in document["load"]
    where = call([programs / "python", "-c", "import defer; print(defer.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
