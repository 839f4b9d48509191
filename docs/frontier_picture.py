"""Draw ``docs/images/frontier.png``: the frontier of the default text router on held-out queries of the embedded log.

Run ``python docs/frontier_picture.py`` from the root of the repository.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

import defer
from defer.datasets import load_tiny

# 1,200 pixels wide.
SIZE_INCHES, DPI = (7.5, 4.5), 160


def main() -> None:
    """Fit, evaluate and draw."""
    mpl.rcParams.update({"font.size": 9})
    train, test = load_tiny().split(test_size=0.3, seed=0)
    router = defer.router(embeddings=False).fit(train.X, train.quality, cost=train.cost)
    evaluation = defer.evaluate(router, test, train=train)
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    evaluation.plot_frontier(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("share of right answers")
    axes.set_title("Router on 1,500 held-out queries of the embedded log, with 95% interval", fontsize=10, loc="left")
    figure.savefig(Path(__file__).parent / "images" / "frontier.png", dpi=DPI)


if __name__ == "__main__":
    main()
