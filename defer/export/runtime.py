"""A policy written by `defer.export.to_numpy`, run by NumPy alone: this file can be copied to where nothing else is installed."""

import json
import re
from typing import Any

import numpy as np

__all__ = ["NumpyPolicy"]


class NumpyPolicy:
    """A policy; `file` is the path or binary file that `to_numpy` wrote: arrays and JSON, and nothing that could run."""

    def __init__(self, file: Any) -> None:
        try:
            with np.load(file, allow_pickle=False) as archive:
                self.arrays = {name: archive[name] for name in archive.files}
            self.spec = json.loads(self.arrays.pop("spec").tobytes())
            self.arms, self.n_features = self.spec["arms"], self.spec["n_features"]
        except OSError:
            raise
        except Exception as error:  # whatever another kind of file, or half of one, makes NumPy raise
            raise ValueError(f"{file!r} is no policy as defer.export.to_numpy writes it, or a damaged one") from error
        for part in (part for step in self.spec["steps"] for part in step.get("parts", ())):
            part["index"] = {term: index for index, term in enumerate(part["terms"])}

    def predict(self, queries: Any) -> list[Any]:
        """Name of the arm that each query takes, as a list: texts, or rows of numbers."""
        return [self.arms[arm] for arm in self.decide(queries)[0]]

    def decide(self, queries: Any, block: int = 16) -> Any:
        """Index of the arm (n,), predicted quality (n, m) and predicted cost (n, m); ValueError for other queries."""
        rows = self._checked(queries.to_numpy() if hasattr(queries, "to_numpy") else queries)
        found = [self._decide(rows[low : low + block]) for low in range(0, len(rows), block)]
        return tuple(np.concatenate(part) for part in zip(*found, strict=True))

    def _checked(self, queries: Any) -> Any:
        need, n_axes = (f"{self.n_features} finite numbers each", 2) if self.n_features else ("one text each", 1)
        is_batch = hasattr(queries, "__iter__") and getattr(queries, "ndim", n_axes) == n_axes
        rows = list(queries) if is_batch and not isinstance(queries, str) else []
        wrong = [index for index, row in enumerate(rows) if not self._takes(row)]
        if wrong or not rows:
            first = f"{rows[wrong[0]]!r} in row {wrong[0]}" if wrong else ""
            got = f"{len(wrong)} of {len(rows)} are not, the first is {first}" if wrong else f"got {queries!r}"
            raise ValueError(f"this policy takes a batch of queries, {need}: {got}")
        return np.array(rows, float) if self.n_features else rows

    def _takes(self, row: Any) -> bool:
        if not self.n_features or isinstance(row, str):
            return isinstance(row, str) and not self.n_features
        is_flat = np.ndim(row) == 1 and np.asarray(row).dtype.kind in "biuf"
        return is_flat and len(row) == self.n_features and bool(np.isfinite(row).all())

    def _decide(self, queries: Any) -> Any:
        X = queries
        for step in self.spec["steps"]:
            if step["kind"] == "tfidf":
                X = np.vstack([np.concatenate([self._tfidf(text, part) for part in step["parts"]]) for text in X])
            else:
                X = (np.asarray(X, float) - self.arrays[step["mean"]]) / self.arrays[step["scale"]]
        quality, cost = getattr(self, "_" + self.spec["head"]["kind"])(np.asarray(X))
        rule, cost = self.spec["rule"], np.broadcast_to(cost, quality.shape)
        utility = quality - rule["cost_weight"] * cost + self.arrays["bonus"]
        net = utility - rule["price"] * cost
        slack = np.abs(utility).max(axis=1) + rule["price"] * np.abs(cost).max(axis=1) if rule["tolerance"] else 0.0
        tied = net >= (net.max(axis=1) - 1e-9 * slack)[:, None]
        return np.where(tied, cost, np.inf).argmin(axis=1), quality, cost

    def _tfidf(self, text: Any, part: Any) -> Any:
        text, (least, most) = text.lower() if part["lowercase"] else text, part["ngram_range"]
        if part["analyzer"] == "word":
            words = re.findall(part["token_pattern"], text)
            grams = [" ".join(words[i : i + n]) for n in range(least, most + 1) for i in range(len(words) - n + 1)]
        else:  # a padded word that is no longer than n counts once as a whole, and for no larger n
            sizes = [(f" {w} ", n) for w in text.split() for n in range(least, min(max(len(w) + 2, least), most) + 1)]
            grams = [word[i : i + n] for word, n in sizes for i in range(max(len(word) - n + 1, 1))]
        known = [part["index"][gram] for gram in grams if gram in part["index"]]
        value = np.bincount(np.array(known, dtype=int), minlength=len(part["terms"])).astype(float)
        value = np.minimum(value, 1.0) if part["binary"] else value
        value = np.where(value > 0, np.log(np.maximum(value, 1.0)) + 1.0, 0.0) if part["sublinear"] else value
        value = value * self.arrays[part["idf"]]
        size = np.sqrt(value @ value) if part["norm"] == "l2" else np.abs(value).sum()
        return value / size if part["norm"] and size > 0 else value

    def _linear(self, X: Any) -> Any:
        a = self.arrays
        quality = X @ a["coef"].T + a["intercept"]
        for entry in self.spec["head"]["grades"]:
            coef, intercept, grades = (a[entry[name]] for name in ("coef", "intercept", "grades"))
            score = np.zeros((len(X), 1)) if entry["kind"] == "constant" else X @ coef.T + intercept
            score = np.hstack([np.zeros_like(score), score]) if entry["kind"] == "sigmoid" else score
            share = np.exp(score - score.max(axis=1, keepdims=True))
            quality[:, entry["arm"]] = share / share.sum(axis=1, keepdims=True) @ grades
        cost = np.maximum(X @ a["cost_coef"].T + a["cost_intercept"], 0.0) if "cost_coef" in a else a["mean_cost"]
        return quality, cost

    def _neighbors(self, X: Any) -> Any:
        head, a = self.spec["head"], self.arrays
        Z = (X := X.astype(a["norms"].dtype)) - a["centre"]
        if head["sparse"]:
            dot = np.array([np.bincount(a["rows"], a["data"] * z[a["columns"]], head["n_queries"]) for z in Z])
        else:
            dot = Z @ a["queries"].T
        away = -dot if head["metric"] == "cosine" else a["norms"] - 2.0 * dot
        near = np.argpartition(away, head["reach"] - 1, axis=1)[:, : head["reach"]]
        mass = np.ones(near.shape)
        if head["weighted"]:
            near = np.take_along_axis(near, np.take_along_axis(away, near, 1).argsort(axis=1, kind="stable"), 1)
            weight = a["sample_weight"][near]
            mass = np.clip(head["n_neighbors"] - (weight.cumsum(axis=1) - weight), 0.0, weight)
        quality = _pooled(a["values"], a["observed"], near, mass, a["mean_quality"])
        cost = np.tile(a["mean_cost"], (len(X), 1))
        if head["cost"]:
            cost = np.maximum(cost + _pooled(a["cost_values"], a["cost_observed"], near, mass, 0.0), 0.0)
        blank = (X**2).sum(axis=1) == 0 if head["metric"] == "cosine" else np.zeros(len(X), bool)
        return np.where(blank[:, None], a["mean_quality"], quality), np.where(blank[:, None], a["mean_cost"], cost)


def _pooled(values: Any, observed: Any, near: Any, mass: Any, default: Any) -> Any:
    total, count = (np.einsum("nk,nkm->nm", mass, table[near]) for table in (values, observed))
    return np.where(count > 0, total / np.where(count > 0, count, 1.0), default)
