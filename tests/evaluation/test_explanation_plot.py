"""The picture of one decision shows the numbers of its explanation."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from defer import OutcomeLog, Share
from defer.estimators import QualityRouter, TunedRouter
from defer.estimators.explain import explain
from defer.evaluation.explanation_plot import plot_arm_forecasts, plot_explanation, plot_price_lines


def test_both_panels_show_the_explanation(full_log: OutcomeLog) -> None:
    router = QualityRouter(cost_weight=5.0).fit(full_log.X, full_log.quality, cost=full_log.cost)
    found = explain(router, full_log.X[0], log=full_log)
    arms, prices = plot_explanation(found)
    assert arms.get_yticklabels()[0].get_text() == f"{found.label} (taken)"
    drawn = next(line for line in arms.get_lines() if line.get_label() == "predicted")
    assert list(drawn.get_xdata()) == [found.quality[index] for index in (found.arm, *found.fallbacks)]
    flips = [text.get_text() for text in prices.texts]
    assert flips == [f"{part.low:.5g}" for part in found.intervals[1:] if part.low <= prices.get_xlim()[1]]
    assert flips
    marks = [line for line in prices.get_lines() if line.get_marker() == "o"]
    (x,), (y,) = marks[0].get_data()
    assert y == pytest.approx(max(found.quality - x * found.cost))
    arms.figure.canvas.draw()


def test_axes_of_the_caller_are_used_and_nothing_known_still_draws(full_log: OutcomeLog) -> None:
    found = explain(QualityRouter().fit(full_log.X, full_log.quality), full_log.X[0])
    pair = Figure().subplots(1, 2)
    drawn = plot_explanation(found, (pair[0], pair[1]))
    assert drawn == (pair[0], pair[1])
    assert plot_price_lines(found).get_ylabel() == "utility"
    assert plot_arm_forecasts(found).get_xlabel() == "quality"
    pair[0].figure.canvas.draw()


def test_an_infinite_bonus_draws(full_log: OutcomeLog) -> None:
    router = TunedRouter(QualityRouter(), limit=Share("small", at_least=1.0))
    found = explain(router.fit(full_log.X, full_log.quality, cost=full_log.cost), full_log.X[0])
    assert np.isposinf(found.utility).any()
    plot_explanation(found)[1].figure.canvas.draw()
