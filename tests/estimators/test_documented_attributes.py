"""What a router has after its fit, and what it takes, stands in its docstring."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

# Attributes of scikit-learn's own contract.
COMMON = {"classes_", "n_features_in_", "feature_names_in_"}


def section(thing: type, name: str) -> set[str]:
    """Names in a section of a numpydoc docstring, of the class and of those that it comes from."""
    names: set[str] = set()
    for parent in thing.__mro__:
        text = inspect.cleandoc(vars(parent).get("__doc__") or "")
        found = re.search(rf"^{name}\n-+\n(.*?)(?=^\w[^\n]*\n-{{3,}}$|\Z)", text, flags=re.MULTILINE | re.DOTALL)
        for line in (found[1] if found else "").splitlines():
            if line and not line.startswith(" "):
                names |= {one.strip() for one in line.split(" : ")[0].split(",")}
    return names


def test_sections_are_read() -> None:
    class Thing:
        """A thing.

        Parameters
        ----------
        a, b : int
            Of numbers.
        c
            Another.

        Attributes
        ----------
        d_ : int
            With a text: and more.
        e_, f_
            Others.

        Notes
        -----
        g_ : none
        """

    assert section(Thing, "Parameters") == {"a", "b", "c"}
    assert section(Thing, "Attributes") == {"d_", "e_", "f_"}
    assert section(Thing, "References") == set()


def test_fitted_attributes_are_documented(case: Any, table: Any) -> None:
    router = case.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        router.fit(table.X, table.quality, cost=table.cost)
    properties = [name for name, _ in inspect.getmembers(type(router), lambda one: isinstance(one, property))]
    fitted = {name for name in (*vars(router), *properties) if name.endswith("_") and not name.startswith("_")} - COMMON
    assert len(fitted) > 2
    assert sorted(fitted - section(type(router), "Attributes")) == []


def test_parameters_are_documented(case: Any) -> None:
    taken = set(inspect.signature(type(case.router).__init__).parameters) - {"self"}
    assert sorted(taken - section(type(case.router), "Parameters")) == []
