"""The documentation holds what it says: its code runs, its numbers are printed, and the API reference is complete."""

from __future__ import annotations

import doctest
import importlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import defer
from defer import datasets, estimators, evaluation, exceptions, export, losses, portfolios

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(
    page.relative_to(DOCS).as_posix()
    for page in (*DOCS.glob("*.rst"), *DOCS.glob("guide/*.rst"), *DOCS.glob("pitfalls/*.rst"))
    if ">>> " in page.read_text(encoding="utf-8")
)
PUBLIC = [
    f"{module.__name__}.{name}"
    for module in (defer, losses, portfolios, estimators, evaluation, export, datasets, exceptions)
    for name in module.__all__
]


class NumberChecker(doctest.OutputChecker):
    """Lets the last printed digit of a decimal number differ by one: other builds of BLAS round differently."""

    _NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        expected, found = self._NUMBER.findall(want), self._NUMBER.findall(got)
        if len(expected) != len(found) or not all(map(self._are_close, expected, found)):
            return False
        return super().check_output(self._NUMBER.sub("#", want), self._NUMBER.sub("#", got), optionflags)

    @staticmethod
    def _are_close(expected: str, found: str) -> bool:
        mantissa, _, exponent = expected.partition("e")
        unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        return abs(float(expected) - float(found)) <= 1.001 * unit


def documented() -> Iterator[str]:
    """Full names in the API reference: entries of its tables, its modules, and its data."""
    for page in sorted((DOCS / "api").glob("*.rst")):
        module, is_table = "", False
        for line in page.read_text(encoding="utf-8").splitlines():
            directive = re.match(r"\.\. (\w+|py:data):: ?(\S*)", line)
            if directive:
                kind, argument = directive.groups()
                is_table = kind == "autosummary"
                module = argument if kind == "currentmodule" else module
                if kind in ("automodule", "py:data"):
                    yield argument
            elif is_table and re.fullmatch(r"   [A-Za-z_]\w*", line):
                yield f"{module}.{line.strip()}"


def resolve(name: str) -> object:
    """The module or object of a full name."""
    parent, _, last = name.rpartition(".")
    if not parent:
        return importlib.import_module(name)
    found = getattr(importlib.import_module(parent), last, None)
    return importlib.import_module(name) if found is None or isinstance(found, ModuleType) else found


def test_every_public_name_stands_in_the_api_reference_exactly_once():
    # A class that two packages export is one thing, so names are compared by what they stand for.
    count = Counter(id(resolve(name)) for name in documented())
    wrong = {name: count[id(resolve(name))] for name in PUBLIC if count[id(resolve(name))] != 1}
    assert wrong == {}


def test_the_api_reference_names_nothing_that_is_not_there():
    names = list(documented())
    assert len(names) > 80
    assert [name for name in names if resolve(name) is None] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, page, page, 0)
    runner = doctest.DocTestRunner(
        NumberChecker(), verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    report: list[str] = []
    with warnings.catch_warnings():
        # A reader sees warnings beside the output, and pages that are about them record them.
        warnings.simplefilter("ignore")
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("page", ["guide/idea.rst", "guide/logs.rst", "guide/routers.rst", "guide/limits.rst", "guide/evaluation.rst",
                                  "guide/deferral.rst", "guide/one_expert.rst", "guide/several_experts.rst", "guide/frozen_model.rst",
                                  "guide/one_shot_underfits.rst", "guide/panels.rst", "guide/which_surrogate.rst",
                                  "guide/which_router.rst", "guide/auto.rst", "guide/hybrid.rst", "guide/distillation.rst",
                                  "guide/pools.rst", "guide/preferences.rst", "guide/adding_arms.rst", "guide/text_features.rst",
                                  "guide/sessions.rst", "guide/explain.rst", "guide/export.rst",
                                  "pitfalls/leakage.rst", "pitfalls/support.rst", "pitfalls/ties.rst", "pitfalls/threshold_tuning.rst"])  # fmt: skip
def test_every_guide_page_and_every_page_on_a_mistake_runs_code(page):
    assert page in PAGES


def test_tests_that_the_docs_name_exist():
    named = set(re.findall(r"``(tests/[\w/]+\.py)``", (DOCS / "reproduced.rst").read_text(encoding="utf-8")))
    assert named
    assert [name for name in sorted(named) if not (DOCS.parent / name).is_file()] == []


def test_commands_that_the_docs_name_exist():
    from defer.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    text = (DOCS / "guide" / "reports.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"^   \$ defer ([a-z]+)", text, flags=re.M))
    assert known == named


def test_examples_need_no_data_beyond_what_the_library_ships():
    examples = sorted((DOCS / "examples").glob("*/plot_*.py"))
    assert len(examples) >= 6
    for example in examples:
        assert not re.search(r"shared|read_parquet|open\(|https?://", example.read_text(encoding="utf-8")), example.name


@pytest.mark.parametrize(
    ("want", "got", "is_equal"),
    [
        ("quality 0.760\n", "quality 0.761\n", True),
        ("quality 0.760\n", "quality 0.763\n", False),
        ("cost 9.60e-06\n", "cost 9.61e-06\n", True),
        ("cost 9.60e-06\n", "cost 9.60e-05\n", False),
        ("small 0.5\n", "large 0.5\n", False),
        ("0.5 0.5\n", "0.5\n", False),
        ("12 queries\n", "13 queries\n", False),
    ],
)
def test_numbers_may_differ_in_the_last_digit_only(want, got, is_equal):
    assert NumberChecker().check_output(want, got, doctest.NORMALIZE_WHITESPACE) is is_equal
