"""The outcome log: queries, what every arm made of them at what cost and latency, and how the logged arm was chosen.

Frozen, validated once, columnar.  A log is full information where every arm was run on every query, and a bandit log
where one arm was taken per query with a known propensity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import OutcomeLogError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.log_checks import check_log

if TYPE_CHECKING:
    from os import PathLike

    from defer.portfolios.summary import LogSummary

__all__ = ["ArmMatrix", "OutcomeLog"]


@dataclass(frozen=True, eq=False)
class OutcomeLog:
    """Logged outcomes of m arms on n queries.

    Build one with `from_wide`, `from_long`, `from_arrays` or `read_parquet`; those read names, this checks numbers.

    Attributes
    ----------
    X : list of str, array, sparse matrix, frame or None
        Queries, n rows.
    arms : tuple of m names
    quality : ArmMatrix of shape (n, m)
        Higher is better; NaN = not observed.
    cost : ArmMatrix of shape (n, m) or None
        US dollars per query.
    latency : ArmMatrix of shape (n, m) or None
        Seconds.
    action : int array of shape (n,)
        Index of the logged arm, -1 = no arm was chosen: all outcomes that are there were simply recorded.
    propensity : array of shape (n,) or None
        Probability with which the logging policy took the logged arm; NaN where `action` is -1.
    policy : ArmMatrix of shape (n, m) or None
        The whole logging distribution.
    domain, cluster, time, query_id : arrays of shape (n,) or None

    Raises
    ------
    OutcomeLogError
        Names the column, the count, the first row and its value.

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(["a", "b"], [[1.0, 0.0], [0.0, 1.0]], arms=["small", "large"])
    >>> len(log), log.arms, log.is_full_information
    (2, ('small', 'large'), True)
    """

    X: Any
    arms: tuple[str, ...]
    quality: ArmMatrix
    cost: ArmMatrix | None = None
    latency: ArmMatrix | None = None
    action: NDArray[np.intp] = None  # type: ignore[assignment]  # filled in when the log is checked
    propensity: NDArray[np.float64] | None = None
    policy: ArmMatrix | None = None
    domain: NDArray[Any] | None = None
    cluster: NDArray[Any] | None = None
    time: NDArray[Any] | None = None
    query_id: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        for name, value in check_log(self).items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.quality)

    def __repr__(self) -> str:
        kind = "full information" if self.is_full_information else "bandit" if self.is_bandit else "partial"
        extras = [name for name in ("cost", "latency", "domain", "cluster", "time") if getattr(self, name) is not None]
        return f"OutcomeLog({len(self)} queries, {len(self.arms)} arms, {kind}; {', '.join(extras) or 'quality only'})"

    @property
    def is_full_information(self) -> bool:
        """Whether the quality of every arm was observed on every query."""
        return bool(np.isfinite(self.quality).all())

    @property
    def is_bandit(self) -> bool:
        """Whether every row has a logged arm."""
        return bool(np.all(self.action >= 0)) and len(self.arms) > 1

    @property
    def has_decisions(self) -> bool:
        """Whether some row has a logged arm."""
        return bool(np.any(self.action >= 0))

    @classmethod
    def from_arrays(
        cls, X: Any, quality: ArrayLike, *, arms: Sequence[str] | None = None, **columns: Any
    ) -> OutcomeLog:
        """Log from arrays.

        Parameters
        ----------
        X : n queries or None
        quality : array of shape (n, m)
        arms : sequence of m names, optional
            Default ``arm_0``, ``arm_1``, … or the names that `quality` carries.
        **columns
            `cost`, `latency`, `policy` (n, m); `action`, `propensity`, `domain`, `cluster`, `time`, `query_id` (n,).
        """
        from defer.portfolios.tables import as_matrix

        names, table = as_matrix(quality, "quality")
        given = tuple(arms) if arms is not None else names or tuple(f"arm_{index}" for index in range(table.shape[1]))
        unknown = set(columns) - {field.name for field in fields(cls)}
        if unknown:
            raise OutcomeLogError(f"from_arrays knows no column {sorted(unknown)}")
        for name in ("cost", "latency", "policy"):
            if columns.get(name) is not None:
                columns[name] = as_matrix(columns[name], name, given)[1]
        return cls(X, given, table, **columns)  # type: ignore[arg-type]

    @classmethod
    def from_wide(cls, frame: Any, **options: Any) -> OutcomeLog:
        """Log from a frame with one row a query; see `defer.portfolios.tables.read_wide` for the options."""
        from defer.portfolios.tables import read_wide

        return cls(**read_wide(frame, **options))

    @classmethod
    def from_long(cls, frame: Any, **options: Any) -> OutcomeLog:
        """Log from a frame with one row a (query, arm); see `defer.portfolios.tables.read_long` for the options."""
        from defer.portfolios.tables import read_long

        return cls(**read_long(frame, **options))

    @classmethod
    def read_parquet(cls, path: str | PathLike[str], **options: Any) -> OutcomeLog:
        """Log from a Parquet file: one that `to_parquet` wrote, or a wide or long table.

        Options as for `from_wide` and `from_long`; a table with a column ``arm`` (or a mapping for it) is long.

        Raises
        ------
        OutcomeLogError
            If the file does not hold an outcome log.
        """
        from defer.portfolios.parquet import read_log

        return cls(**read_log(path, **options))

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write the log as ordinary columns; what they mean, and the order of the arms, is in the file's metadata."""
        from defer.portfolios.parquet import write_log

        write_log(self, path)

    def select(self, rows: Any = None, arms: Sequence[str] | None = None) -> OutcomeLog:
        """Part of the log.

        Parameters
        ----------
        rows : int or bool array, or slice, optional
        arms : sequence of names, optional
            In the wanted order.  Logged decisions for other arms are dropped.

        Raises
        ------
        OutcomeLogError
            If an arm is unknown or the selection is empty.
        """
        log = self
        if arms is not None:
            missing = [arm for arm in arms if arm not in self.arms]
            if missing:
                raise OutcomeLogError(f"select: no arm {missing[0]!r}; the log has {list(self.arms)}")
            index = np.array([self.arms.index(arm) for arm in arms], dtype=np.intp)
            place = np.full(len(self.arms) + 1, -1, dtype=np.intp)
            place[index] = np.arange(len(index))
            tables = {
                name: None if getattr(self, name) is None else np.asarray(getattr(self, name))[:, index]
                for name in ("quality", "cost", "latency")
            }
            action = place[self.action]
            kept = (self.action < 0) | (action >= 0)
            policy = self.policy if len(index) == len(self.arms) and self.policy is not None else None
            tables["policy"] = None if policy is None else np.asarray(policy)[:, index]
            if not kept.all():
                rows = (
                    np.flatnonzero(kept)
                    if rows is None
                    else np.intersect1d(np.arange(len(self))[rows], np.flatnonzero(kept))
                )
            log = _take(self, rows, arms=tuple(arms), action=action, **tables)
            return log
        return log if rows is None else _take(log, rows)

    def split(self, test_size: float = 0.3, *, seed: int = 0, by: str | None = None) -> tuple[OutcomeLog, OutcomeLog]:
        """Training and test part; see `defer.portfolios.splitting.split_rows`.

        Parameters
        ----------
        test_size : float, default=0.3
            Share of the queries in the test part, in (0, 1).
        seed : int, default=0
        by : {"cluster", "time", "random"}, optional
            "cluster" keeps the rows of one cluster together, or, where the log has no clusters, rows of equal text;
            "time" tests on the latest; "random" ignores both.  Default "cluster".

        Warns
        -----
        LeakageWarning
            If the same text stands on both sides.
        """
        from defer.portfolios.splitting import split_rows

        train, test = split_rows(self, test_size, seed=seed, by=by)
        return self.select(train), self.select(test)

    def with_action(self, policy: ArrayLike, *, seed: int = 0) -> OutcomeLog:
        """Bandit log that `policy` would have left: one arm drawn per query, the other outcomes hidden.

        Parameters
        ----------
        policy : array of shape (n, m)
            Probabilities; every row sums to 1.
        seed : int, default=0

        Returns
        -------
        OutcomeLog
            With `action`, `propensity` and `policy` recorded.

        Raises
        ------
        OutcomeLogError
            If the policy is no distribution, or draws an arm whose quality was not observed.
        """
        from defer.portfolios.splitting import simulate_actions

        return replace(self, **simulate_actions(self, policy, seed=seed))

    def summary(self) -> LogSummary:
        """Counts, means per arm, best single arm and oracle, gaps, repeated texts."""
        from defer.portfolios.summary import summarise

        return summarise(self)


def _take(log: OutcomeLog, rows: Any, **changed: Any) -> OutcomeLog:
    index = np.arange(len(log)) if rows is None else np.arange(len(log))[rows]
    if index.ndim != 1 or not len(index):
        raise OutcomeLogError("select: the selection holds no query")
    values = {field.name: changed.get(field.name, getattr(log, field.name)) for field in fields(log)}
    for name, value in values.items():
        if name not in ("arms", "X") and value is not None:
            values[name] = np.asarray(value)[index]
    values["X"] = take_rows(log.X, index)
    return OutcomeLog(**values)


def take_rows(X: Any, index: NDArray[np.intp]) -> Any:
    """Rows of any kind of query table."""
    if X is None:
        return None
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return frame[index.tolist()].to_native()
    return X[index] if hasattr(X, "shape") else [X[row] for row in index]
