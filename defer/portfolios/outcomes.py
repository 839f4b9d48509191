"""The outcome log: queries, what every arm made of them at what cost and latency, and how the logged arm was chosen.

Frozen, validated once, columnar.  A log is full information where every arm was run on every query, and a bandit log
where one arm was taken per query with a known propensity.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import MissingPropensityWarning, OutcomeLogError, SupportWarning
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.log_checks import check_log, check_source, propensities_left_out

if TYPE_CHECKING:
    from os import PathLike

    from defer.portfolios.summary import LogSummary

__all__ = ["OutcomeLog", "take_rows"]


@dataclass(frozen=True, eq=False)
class OutcomeLog:
    """Logged outcomes of m arms on n queries.

    Build one with `from_wide`, `from_long`, `from_arrays` or `read_parquet`; those read names, this checks numbers.
    All arrays are copies that cannot be written to.  A list, a sparse matrix or a frame of queries is a copy too, but
    one that Python cannot protect: leave it as it is.

    Attributes
    ----------
    X : list of str, array, sparse matrix, frame or None
        Queries, n rows.  A list holds texts only, or none.
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
        Probability with which the logging policy took the logged arm; NaN where `action` is -1.  Taken from `policy` where
        only that is given.
    policy : ArmMatrix of shape (n, m) or None
        The whole logging distribution.
    domain, cluster, time, query_id : arrays of shape (n,) or None
        Text is held as objects; times are naive UTC.  A cluster or id must not be missing, an id must not repeat.

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

    def __reduce__(self) -> tuple[type[OutcomeLog], tuple[Any, ...]]:
        # Made anew, because pickled arrays come back writable.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

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
        quality : array or frame of shape (n, m)
        arms : sequence of m names, optional
            Default the names that `quality` carries, else ``arm_0``, ``arm_1``, …  Tables with names of their own are put
            in this order.
        **columns
            `cost`, `latency`, `policy` (n, m); `action`, `propensity`, `domain`, `cluster`, `time`, `query_id` (n,).

        Raises
        ------
        OutcomeLogError
            Names the column, the count, the first row and its value.

        Warns
        -----
        MissingPropensityWarning
            If arms were logged without propensities.
        """
        from defer.portfolios.tables import as_matrix

        allowed = [field.name for field in fields(cls) if field.name not in ("X", "arms", "quality")]
        unknown = sorted(set(columns) - set(allowed))
        if unknown:
            raise OutcomeLogError(f"from_arrays knows no column {unknown[0]!r}; allowed are {allowed}")
        if isinstance(arms, str):
            raise OutcomeLogError(f"arms must be a sequence of names, got the string {arms!r}")
        named = None if arms is None else tuple(str(arm) for arm in arms)
        names, table = as_matrix(quality, "quality", named)
        given = named or names or tuple(f"arm_{index}" for index in range(table.shape[1]))
        for name in ("cost", "latency", "policy"):
            if columns.get(name) is not None:
                columns[name] = as_matrix(columns[name], name, given)[1]
        return check_source(cls(X, given, table, **columns))  # type: ignore[arg-type]

    @classmethod
    def from_wide(cls, frame: Any, **options: Any) -> OutcomeLog:
        """Log from a frame with one row a query; see `defer.portfolios.tables.read_wide` for the options.

        Examples
        --------
        >>> import pyarrow as pa
        >>> table = pa.table({"prompt": ["a", "b"], "score:small": [1, 0], "score:large": [1, None]})
        >>> OutcomeLog.from_wide(table, text="prompt").quality.tolist()
        [[1.0, 1.0], [0.0, nan]]
        """
        from defer.portfolios.tables import read_wide

        return check_source(cls(**read_wide(frame, **options)))

    @classmethod
    def from_long(cls, frame: Any, **options: Any) -> OutcomeLog:
        """Log from a frame with one row a (query, arm); see `defer.portfolios.tables.read_long` for the options.

        Examples
        --------
        >>> import pyarrow as pa
        >>> table = pa.table({"query_id": [7, 7, 8], "arm": ["small", "large", "small"], "score": [0, 1, 1]})
        >>> OutcomeLog.from_long(table).quality.tolist()
        [[0.0, 1.0], [1.0, nan]]
        """
        from defer.portfolios.tables import read_long

        return check_source(cls(**read_long(frame, **options)))

    @classmethod
    def read_parquet(cls, path: str | PathLike[str], **options: Any) -> OutcomeLog:
        """Log from a Parquet file: one that `to_parquet` wrote, or a wide or long table.

        Options as for `from_wide` and `from_long`; a table with a column ``arm`` (or a mapping for it) is long, and
        `queries` may be a path.  Of a file that `to_parquet` wrote, `text` or `features` replace the queries and `arms`
        selects; with `columns` it is read as any other table.

        Raises
        ------
        OutcomeLogError
            If the file does not hold an outcome log, or an option does not fit its form.
        """
        from defer.portfolios.parquet import read_log

        values, arms = read_log(path, **options)
        log = cls(**values)
        return check_source(log) if arms is None else log._select(None, arms)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write the log as ordinary columns; what they mean, and the order of the arms, is in the file's metadata."""
        from defer.portfolios.parquet import write_log

        write_log(self, path)

    def select(self, rows: Any = None, arms: Sequence[str] | None = None) -> OutcomeLog:
        """Part of the log.

        Parameters
        ----------
        rows : int or bool array, slice or int, optional
            In the wanted order.
        arms : sequence of names, optional
            In the wanted order.  Rows whose logged arm is not among them are left out: what remains are the queries on
            which one of these arms was drawn.

        Returns
        -------
        OutcomeLog
            Without some arms, logging policy and propensities are those given that one of the selected arms was drawn:
            every row of the policy is divided by what it gives to them.  Where only propensities are known and rows are
            left out, that share is unknown, and the propensities are left out, too.

        Raises
        ------
        OutcomeLogError
            If an arm is unknown, a row is not there or taken twice, or the selection is empty.

        Warns
        -----
        SupportWarning
            If decisions for other arms, or their probabilities, are left out: the values of this log are those on queries
            on which one of the selected arms was drawn.
        MissingPropensityWarning
            If propensities are left out.

        Examples
        --------
        >>> log = OutcomeLog.from_arrays(["a", "b"], [[1.0, 0.0], [0.0, 1.0]], arms=["small", "large"])
        >>> log.select(rows=[1], arms=["large"]).quality.tolist()
        [[1.0]]
        """
        return self._select(rows, arms)

    def _select(self, rows: Any, arms: Sequence[str] | None) -> OutcomeLog:
        index = self._rows(rows)
        if arms is None:
            return _take(self, index)
        if isinstance(arms, str):
            raise OutcomeLogError(f"select: arms must be a sequence of names, got the string {arms!r}")
        missing = [arm for arm in arms if arm not in self.arms]
        if missing:
            raise OutcomeLogError(f"select: no arm {missing[0]!r}; the log has {list(self.arms)}")
        columns = np.array([self.arms.index(arm) for arm in arms], dtype=np.intp)
        place = np.full(len(self.arms) + 1, -1, dtype=np.intp)
        place[columns] = np.arange(len(columns))
        action = place[self.action]
        changed: dict[str, Any] = {"arms": tuple(arms), "action": action}
        for name in ("quality", "cost", "latency", "policy"):
            table = getattr(self, name)
            changed[name] = None if table is None else np.asarray(table)[:, columns]
        kept = index[(self.action[index] < 0) | (action[index] >= 0)]
        if 0 < len(set(arms)) == len(arms) < len(self.arms):
            changed |= _given_arms(self, changed["policy"], action, index, kept, arms)
        return _take(self, kept, **changed)

    def _rows(self, rows: Any) -> NDArray[np.intp]:
        every = np.arange(len(self))
        if rows is None:
            return every
        if not isinstance(rows, slice):
            rows = np.asarray(rows) if np.size(rows) else np.zeros(0, dtype=np.intp)
        try:
            return np.atleast_1d(every[rows])
        except IndexError as error:
            raise OutcomeLogError(f"select: rows do not fit a log of {len(self)} queries: {error}") from None

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
        policy : array or frame of shape (n, m)
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


def _given_arms(
    log: OutcomeLog,
    policy: NDArray[np.float64] | None,
    action: NDArray[np.intp],
    index: NDArray[np.intp],
    kept: NDArray[np.intp],
    arms: Sequence[str],
) -> dict[str, Any]:
    """Policy and propensity given that one of `arms` was drawn; `policy` has their columns, `action` their indexes."""
    lost, drawn = len(index) - len(kept), kept[action[kept] >= 0]
    if not len(kept):
        return {}
    if policy is None:
        if not lost or not len(drawn) or log.propensity is None:
            return {}
        warnings.warn(propensities_left_out(lost, len(index), arms), MissingPropensityWarning, stacklevel=4)
        return {"propensity": None}
    others = [column for column, arm in enumerate(log.arms) if arm not in arms]
    given_away = np.asarray(log.policy)[:, others].sum(axis=1)
    if not given_away[kept].any() and not lost:
        return {}
    if len(drawn) and (lost or given_away[drawn].any()):
        warnings.warn(
            f"{lost} of {len(index)} queries are left out, because another arm than {list(arms)} was drawn; policy and "
            f"propensities are divided by the probability of these arms ({policy[drawn].sum(axis=1).mean():.3g} in the mean), "
            "and the log stands only for queries on which one of them was drawn",
            SupportWarning,
            stacklevel=4,
        )
    share = policy.sum(axis=1)
    propensity = None if log.propensity is None else log.propensity.copy()
    if propensity is not None:
        # Not divided themselves: that would enlarge the rounding by which they may differ from the policy.
        propensity[drawn] = policy[drawn, action[drawn]] / share[drawn]
    # A query without a decision may have nothing on these arms.
    whole = (share[kept] > 0).all()
    share[share <= 0] = 1.0
    return {"propensity": propensity, "policy": policy / share[:, None] if whole else None}


def _take(log: OutcomeLog, index: NDArray[np.intp], **changed: Any) -> OutcomeLog:
    if index.ndim != 1 or not len(index):
        raise OutcomeLogError("select: the selection holds no query")
    values = {field.name: changed.get(field.name, getattr(log, field.name)) for field in fields(log)}
    for name, value in values.items():
        if name not in ("arms", "X") and value is not None:
            values[name] = np.asarray(value)[index]
    if not (values["action"] >= 0).any():
        values["propensity"] = None
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
