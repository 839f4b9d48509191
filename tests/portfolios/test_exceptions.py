"""The tree of errors: ours and a built-in one at once, so that both kinds of handler work."""

from __future__ import annotations

import math
import pickle

import pytest

from defer import exceptions


@pytest.mark.parametrize("name", exceptions.__all__)
def test_every_class_is_in_the_tree_and_drawn_in_it(name):
    kind = getattr(exceptions, name)
    assert issubclass(kind, exceptions.DeferWarning if name.endswith("Warning") else exceptions.DeferError)
    assert name in exceptions.__doc__
    assert kind.__doc__


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        (name, ImportError if name == "MissingExtraError" else ValueError)
        for name in exceptions.__all__
        if name.endswith("Error")
    ],
)
def test_errors_are_caught_as_the_built_in_kind(name, builtin):
    assert name == "DeferError" or issubclass(getattr(exceptions, name), builtin)


def test_missing_extra_says_how_to_get_it():
    error = exceptions.MissingExtraError("torch", "text")
    assert "pip install 'defer-learn[text]'" in str(error)
    assert "'torch'" in str(error)
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.package, twin.extra, str(twin)) == ("torch", "text", str(error))


def test_infeasible_limit_carries_the_nearest_feasible_value():
    error = exceptions.InfeasibleLimitError("too low", 0.25)
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.nearest) == ("too low", 0.25)
    assert math.isnan(exceptions.InfeasibleLimitError("no").nearest)
