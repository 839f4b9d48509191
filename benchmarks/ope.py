"""Off-policy evaluation of 1,000,000 logged rounds x 8 arms beside plain NumPy and Open Bandit Pipeline.

Prints the tables of docs/benchmarks/ope.rst and writes them:  python benchmarks/ope.py [--quick] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tracemalloc
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import interleaved, machine, median, page, table

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "ope.rst"
ROUNDS, ARMS = 1_000_000, 8
# Its default is 10,000; 100 keeps the run short and flatters it.
OBP_RESAMPLES = 100


def simulated_rounds(n: int, m: int) -> dict[str, np.ndarray]:
    """A logged bandit problem with a softmax logging policy, and the exact quality model shifted by a little noise."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.2, 0.8, size=(n, m))
    scores = 3.0 * mean + rng.gumbel(size=(n, m)) * 0.3
    logging = _softmax(scores)
    action = (logging.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, m - 1)
    reward = (rng.random(n) < mean[np.arange(n), action]).astype(np.float64)
    return {
        "policy": _softmax(6.0 * mean),
        "model": np.clip(mean + rng.normal(0, 0.05, size=(n, m)), 0, 1),
        "action": action,
        "reward": reward,
        "propensity": logging[np.arange(n), action],
    }


def _softmax(scores: np.ndarray) -> np.ndarray:
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def as_log(data: dict[str, np.ndarray]) -> Any:
    """The same rounds as an outcome log; NaN stands for the arms that were not taken."""
    from defer import OutcomeLog

    n, m = data["policy"].shape
    quality = np.full((n, m), np.nan)
    quality[np.arange(n), data["action"]] = data["reward"]
    return OutcomeLog.from_arrays(None, quality, action=data["action"], propensity=data["propensity"])


def ours(data: dict[str, np.ndarray], log: Any, estimator: Any = "dr", interval: str = "normal") -> Any:
    """`defer.evaluation.estimate_value` with the quality model as an array."""
    from defer.evaluation import estimate_value

    return estimate_value(data["policy"], log, estimator=estimator, interval=interval, quality_model=data["model"])


def plain_numpy(data: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """The doubly robust mean with a normal interval as one would write it in a notebook."""
    rows = np.arange(len(data["action"]))
    weight = data["policy"][rows, data["action"]] / data["propensity"]
    expected = (data["policy"] * data["model"]).sum(axis=1)
    terms = expected + weight * (data["reward"] - data["model"][rows, data["action"]])
    value, radius = terms.mean(), 1.959963984540054 * terms.std(ddof=1) / math.sqrt(len(terms))
    return float(value), float(value - radius), float(value + radius)


def obp_arguments(data: dict[str, np.ndarray]) -> dict[str, Any]:
    """The rounds in the shapes that Open Bandit Pipeline wants."""
    return {
        "reward": data["reward"],
        "action": data["action"],
        "pscore": data["propensity"],
        "action_dist": data["policy"][:, :, None],
        "estimated_rewards_by_reg_model": data["model"][:, :, None],
    }


def obp_estimate_and_interval(arguments: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """`DoublyRobust` of Open Bandit Pipeline: value and its bootstrap interval, its only kind, with few resamples."""
    from obp.ope import DoublyRobust

    estimator = DoublyRobust()
    interval = estimator.estimate_interval(**arguments, n_bootstrap_samples=OBP_RESAMPLES, random_state=0)
    return estimator.estimate_policy_value(**arguments), interval


def compare_values(data: dict[str, np.ndarray], log: Any) -> list[list[str]]:
    """Every estimator that both libraries have, on the same rounds."""
    from obp import ope

    from defer.evaluation.estimators import DR_OS, DR_PS, SNDR, Switch

    pairs = {
        "IPS": ("ips", ope.InverseProbabilityWeighting()),
        "SNIPS": ("snips", ope.SelfNormalizedInverseProbabilityWeighting()),
        "DM": ("dm", ope.DirectMethod()),
        "DR": ("dr", ope.DoublyRobust()),
        "SNDR": (SNDR(), ope.SelfNormalizedDoublyRobust()),
        "SWITCH (threshold 3)": (Switch(3.0), ope.SwitchDoublyRobust(lambda_=3.0)),
        "DRos (shrinkage 10)": (DR_OS(10.0), ope.DoublyRobustWithShrinkage(lambda_=10.0)),
        "DR, weights cut at 4": (DR_PS(4.0), ope.DoublyRobust(lambda_=4.0)),
    }
    arguments, rows = obp_arguments(data), []
    for name, (estimator, peer) in pairs.items():
        mine = ours(data, log, estimator).value
        theirs = float(peer.estimate_policy_value(**arguments))
        rows.append([name, f"{mine:.9f}", f"{theirs:.9f}", f"{abs(mine - theirs):.1e}"])
    return rows


def peak_of(which: str, rounds: int) -> dict[str, float]:
    """Input and peak memory of one evaluation in a process of its own, in bytes."""
    command = [sys.executable, __file__, "--memory-of", which, "--rounds", str(rounds)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(which: str, rounds: int) -> dict[str, float]:
    """Bytes allocated during one evaluation, beside those of its input."""
    data = simulated_rounds(rounds, ARMS)
    small = {name: values[:100] for name, values in data.items()}
    if which == "defer":
        log = as_log(data)
        size = sum(values.nbytes for name, values in data.items() if name not in ("action", "propensity", "reward"))
        size += np.asarray(log.quality).nbytes + log.action.nbytes + log.propensity.nbytes
        ours(small, as_log(small))
        tracemalloc.start()
        ours(data, log)
    else:
        arguments = obp_arguments(data)
        size = sum(values.nbytes for values in arguments.values())
        obp_estimate_and_interval(obp_arguments(small))
        tracemalloc.start()
        obp_estimate_and_interval(arguments)
    return {"input": size, "extra": tracemalloc.get_traced_memory()[1]}


def run(rounds: int, repeats: int) -> str:
    """Measure everything; returns the text of the page."""
    data = simulated_rounds(rounds, ARMS)
    log, arguments = as_log(data), obp_arguments(data)
    results: dict[str, Any] = {}
    runs = {
        "defer": lambda: results.update(defer=ours(data, log)),
        "NumPy": lambda: results.update(numpy=plain_numpy(data)),
        "Open Bandit Pipeline": lambda: results.update(obp=obp_estimate_and_interval(arguments)),
    }
    seconds = interleaved(runs, repeats=repeats, once=("Open Bandit Pipeline",))
    mine, (value, low, high), (peer, interval) = results["defer"], results["numpy"], results["obp"]
    off = max(abs(mine.value - value), abs(mine.low - low), abs(mine.high - high), abs(mine.value - peer))
    if off > 1e-9:
        raise SystemExit(f"the values differ by {off:.2e}")
    bounds = " … ".join(f"{interval[key]:.6f}" for key in interval if key.startswith("95.0% CI"))
    labels = {
        "defer": ("defer, DR, normal interval", mine.value, f"{mine.low:.6f} … {mine.high:.6f}"),
        "NumPy": ("plain NumPy, the same formulas", value, f"{low:.6f} … {high:.6f}"),
        "Open Bandit Pipeline": (
            f"Open Bandit Pipeline {version('sb-obp')}, DR, bootstrap interval of {OBP_RESAMPLES} resamples", peer, bounds,
        ),
    }  # fmt: skip
    rows = [
        [label, median(seconds[name]), _ratio(seconds, name), f"{found:.6f}", ends]
        for name, (label, found, ends) in labels.items()
    ]
    memory = {which: peak_of(which, rounds) for which in ("defer", "obp")}
    sizes = [
        [name, f"{part['input'] / 2**20:.0f}", f"{part['extra'] / 2**20:.0f}", f"{(part['input'] + part['extra']) / part['input']:.2f}"]
        for name, part in (("defer", memory["defer"]), ("Open Bandit Pipeline", memory["obp"]))
    ]  # fmt: skip
    over_numpy = np.median(seconds["defer"]) / np.median(seconds["NumPy"])
    over_obp = np.median(seconds["Open Bandit Pipeline"]) / np.median(seconds["defer"])
    return page(
        "Off-policy evaluation",
        "``python benchmarks/ope.py``",
        f"{rounds:,} simulated rounds, {ARMS} arms, float64; one process, runs interleaved, medians of {repeats} (Open Bandit "
        f"Pipeline: one run).  {machine()}",
        ("Time", table(["", "seconds", "times defer's", "value", "95% interval"], rows)),
        (
            "",
            f"defer takes {over_numpy:.2f} times as long as the plain formulas (target: at most 2) and is {over_obp:.0f} times as "
            f"fast as Open Bandit Pipeline (target: at least 5).  Value and interval agree with NumPy, and the value with Open "
            f"Bandit Pipeline, to {off:.0e}.",
        ),
        ("Memory", table(["", "input, MB", "allocated on top, MB", "peak / input"], sizes)),
        (
            "",
            "Allocations traced by ``tracemalloc`` in a process of its own (target: peak below 3 times the input).  The input of "
            "defer is the policy, the quality model and the log.",
        ),
        ("Values", table(["estimator", "defer", "Open Bandit Pipeline", "difference"], compare_values(data, log))),
        (
            "",
            'Both with the parameters given.  By name, ``"switch"`` and ``"dros"`` choose theirs by the estimated mean squared '
            "error.",
        ),
    )


def _ratio(seconds: dict[str, list[float]], name: str) -> str:
    return f"{np.median(seconds[name]) / np.median(seconds['defer']):.2f}"


def main() -> None:
    """Read the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 rounds, prints only")
    parser.add_argument("--output", type=Path, default=None, help=f"default docs/benchmarks/{DOCS.name}")
    parser.add_argument("--memory-of", choices=("defer", "obp"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=None)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rounds = options.rounds or (ROUNDS // 10 if options.quick else ROUNDS)
    if options.memory_of:
        print(json.dumps(measure_peak(options.memory_of, rounds)))
        return
    text = run(rounds, repeats=3 if options.quick else 9)
    print(text)
    if options.output or not options.quick:
        (options.output or DOCS).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
