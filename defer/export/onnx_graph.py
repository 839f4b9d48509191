"""A fitted policy on numbers as an ONNX graph: quality, cost, utility and the arm of every query.

The rule is that of the library, ties to the cheaper arm and then to the lower index; standard operators only (opset 18).
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from defer.exceptions import MissingExtraError, RouterInputError
from defer.export.parts import PolicyParts, policy_parts

__all__ = ["to_onnx"]

_OPSET = 18


def to_onnx(router: Any, file: str | PathLike[str], *, dtype: Literal["float64", "float32"] = "float64") -> None:
    """Write a linear or nearest-neighbour policy on numbers as an ONNX model.

    Parameters
    ----------
    router : fitted router, pipeline or tuned router
        As for `to_numpy`, without steps for text; `KNNRouter` without sample weights.
    file : path
    dtype : {"float64", "float32"}, default="float64"
        Of the input ``queries`` (n, d) and of all numbers inside.  In float32 utilities that are closer than its rounding may
        change their order.

    Raises
    ------
    RouterInputError
        If a part of the router cannot be written, or `dtype` is neither.
    MissingExtraError
        If ``onnx`` is not installed.

    Notes
    -----
    Outputs: ``arm`` (n,) int64, ``quality``, ``cost`` and ``utility`` (n, m).  The names of the arms are in the metadata of the
    model, as a JSON list under ``arms``.  As for `to_numpy`, predictions may differ in the last digits, and where logged queries are
    equally far the neighbourhood may be completed by another of them: ties at its edge may be broken otherwise than in ``predict``.

    Examples
    --------
    >>> import pytest
    >>> onnx = pytest.importorskip("onnx")
    >>> import tempfile
    >>> from defer.estimators import QualityRouter
    >>> router = QualityRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_onnx(router, f"{folder}/policy.onnx")
    ...     [output.name for output in onnx.load(f"{folder}/policy.onnx").graph.output]
    ['arm', 'quality', 'cost', 'utility']
    """
    if dtype not in ("float64", "float32"):
        raise RouterInputError(f"to_onnx: dtype must be 'float64' or 'float32', got {dtype!r}")
    parts = policy_parts(router)
    if parts.takes_text:
        raise RouterInputError("to_onnx: this router takes texts, and the graph takes numbers; use to_numpy")
    if parts.spec["head"].get("weighted"):
        raise RouterInputError("to_onnx: a KNNRouter with sample weights cannot be written as a graph; use to_numpy")
    graph = _Graph(dtype)
    quality, cost = _predictions(graph, parts)
    _decide(graph, parts, quality, cost)
    Path(file).write_bytes(graph.model(parts).SerializeToString())


class _Graph:
    """Nodes and constants of a graph; every method gives the name of its result."""

    def __init__(self, dtype: str) -> None:
        try:
            import onnx
        except ImportError:
            raise MissingExtraError("onnx", "onnx") from None
        self.onnx, self.dtype = onnx, np.dtype(dtype)
        self.kind = onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def number(self, value: ArrayLike, dtype: Any = None) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(value, dtype=dtype or self.dtype), name))
        return name

    def add(self, operator: str, *inputs: str, name: str | None = None, n_outputs: int = 1, **options: Any) -> Any:
        name = name or f"value_{len(self.nodes)}"
        names = [name] if n_outputs == 1 else [f"{name}_{index}" for index in range(n_outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), names, **options))
        return names[0] if n_outputs == 1 else names

    def model(self, parts: PolicyParts) -> Any:
        helper, m = self.onnx.helper, len(parts.arms)
        outputs = [helper.make_tensor_value_info("arm", self.onnx.TensorProto.INT64, ["n"])]
        outputs += [helper.make_tensor_value_info(name, self.kind, ["n", m]) for name in ("quality", "cost", "utility")]
        queries = helper.make_tensor_value_info("queries", self.kind, ["n", parts.n_features])
        graph = helper.make_graph(self.nodes, "defer", [queries], outputs, self.constants)
        model = helper.make_model(
            graph, producer_name="defer", opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9
        )
        helper.set_model_props(model, {"arms": json.dumps(parts.arms)})
        self.onnx.checker.check_model(model)
        return model


def _predictions(graph: _Graph, parts: PolicyParts) -> tuple[str, str]:
    X = "queries"
    for step in parts.spec["steps"]:
        centred = graph.add("Sub", X, graph.number(parts.arrays[step["mean"]]))
        X = graph.add("Div", centred, graph.number(parts.arrays[step["scale"]]))
    if parts.spec["head"]["kind"] == "linear":
        return _linear(graph, parts, X)
    return _neighbors(graph, parts, X)


def _affine(graph: _Graph, parts: PolicyParts, X: str, coef: str, intercept: str) -> str:
    product = graph.add("MatMul", X, graph.number(parts.arrays[coef].T))
    return graph.add("Add", product, graph.number(parts.arrays[intercept]))


def _linear(graph: _Graph, parts: PolicyParts, X: str) -> tuple[str, str]:
    quality = _affine(graph, parts, X, "coef", "intercept")
    m = len(parts.arms)
    for entry in parts.spec["head"]["grades"]:
        grades = parts.arrays[entry["grades"]]
        place = np.zeros((1, m))
        place[0, entry["arm"]] = 1.0
        if entry["kind"] == "constant":
            quality = graph.add("Add", quality, graph.number(place * grades[0]))
            continue
        score = _affine(graph, parts, X, entry["coef"], entry["intercept"])
        if entry["kind"] == "sigmoid":
            # The expected grade of two is the lower one and a share of the step to the higher one.
            chance = graph.add("Sigmoid", score)
            step = graph.add("Mul", chance, graph.number(grades[1] - grades[0]))
            column = graph.add("Add", step, graph.number(grades[0]))
        else:
            column = graph.add("MatMul", graph.add("Softmax", score, axis=1), graph.number(grades[:, None]))
        quality = graph.add("Add", quality, graph.add("Mul", column, graph.number(place)))
    if not parts.spec["head"].get("cost"):
        return quality, graph.number(parts.arrays["mean_cost"][None])
    cost = _affine(graph, parts, X, "cost_coef", "cost_intercept")
    return quality, graph.add("Max", cost, graph.number(0.0))


def _neighbors(graph: _Graph, parts: PolicyParts, X: str) -> tuple[str, str]:
    head, arrays = parts.spec["head"], parts.arrays
    if head["sparse"]:
        logged = np.zeros((head["n_queries"], head["n_columns"]))
        logged[arrays["rows"], arrays["columns"]] = arrays["data"]
    else:
        logged = arrays["queries"]
    centred = graph.add("Sub", X, graph.number(arrays["centre"]))
    product = graph.add("MatMul", centred, graph.number(logged.T))
    closeness = product
    if head["metric"] == "euclidean":
        closeness = graph.add("Sub", graph.add("Mul", product, graph.number(2.0)), graph.number(arrays["norms"]))
    reach = graph.number([head["reach"]], np.int64)
    near = graph.add("TopK", closeness, reach, n_outputs=2, axis=1, largest=1, sorted=0)[1]
    quality = _pooled(graph, near, arrays["values"], arrays["observed"], arrays["mean_quality"])
    cost = graph.number(arrays["mean_cost"][None])
    if head["cost"]:
        beyond = _pooled(graph, near, arrays["cost_values"], arrays["cost_observed"], np.zeros(len(parts.arms)))
        cost = graph.add("Max", graph.add("Add", cost, beyond), graph.number(0.0))
    if head["metric"] == "cosine":
        # A zero vector is as near to every query as to any other.
        size = graph.add("ReduceSum", graph.add("Mul", X, X), graph.number([1], np.int64), keepdims=1)
        blank = graph.add("Equal", size, graph.number(0.0))
        quality = graph.add("Where", blank, graph.number(arrays["mean_quality"][None]), quality)
        if head["cost"]:
            cost = graph.add("Where", blank, graph.number(arrays["mean_cost"][None]), cost)
    return quality, cost


def _pooled(graph: _Graph, near: str, values: ArrayLike, observed: ArrayLike, default: ArrayLike) -> str:
    axis = graph.number([1], np.int64)
    total, count = (
        graph.add("ReduceSum", graph.add("Gather", graph.number(table), near, axis=0), axis, keepdims=0)
        for table in (values, observed)
    )
    seen = graph.add("Greater", count, graph.number(0.0))
    mean = graph.add("Div", total, graph.add("Where", seen, count, graph.number(1.0)))
    return graph.add("Where", seen, mean, graph.number(np.asarray(default)[None]))


def _decide(graph: _Graph, parts: PolicyParts, quality: str, cost: str) -> None:
    rule = parts.spec["rule"]
    quality = graph.add("Identity", quality, name="quality")
    cost = graph.add("Expand", cost, graph.add("Shape", quality), name="cost")
    bought = graph.add("Mul", cost, graph.number(rule["cost_weight"]))
    own = graph.add("Add", graph.add("Sub", quality, bought), graph.number(parts.arrays["bonus"]))
    utility = graph.add("Sub", own, graph.add("Mul", cost, graph.number(rule["price"])), name="utility")
    axis = graph.number([1], np.int64)
    best = graph.add("ReduceMax", utility, axis, keepdims=1)
    if rule["tolerance"]:
        # Where the operating point splits a tie, near-ties at its price are ties, which the cheaper arm takes.
        size = [graph.add("ReduceMax", graph.add("Abs", name), axis, keepdims=1) for name in (own, cost)]
        scaled = graph.add("Mul", size[1], graph.number(rule["price"]))
        slack = graph.add("Mul", graph.add("Add", size[0], scaled), graph.number(1e-9))
        best = graph.add("Sub", best, slack)
    tied = graph.add("GreaterOrEqual", utility, best)
    key = graph.add("Where", tied, cost, graph.number(np.inf))
    graph.add("ArgMin", key, axis=1, keepdims=0, name="arm")
