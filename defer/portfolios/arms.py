"""What can be chosen: arms, and the ordered portfolio that they form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral
from os import PathLike
from types import MappingProxyType
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import PortfolioError
from defer.portfolios.prices import PRICE_FIELDS, Price, check_cached, check_price, check_tokens

__all__ = ["Arm", "Portfolio", "Price"]


@dataclass(frozen=True)
class Arm:
    """One thing that a query can be sent to.

    Parameters
    ----------
    name : str
    kind : str, default="model"
        For instance model, adapter, tool, expert, retrieval.
    price : Price
    context_window : int, optional
        Tokens that fit.
    capacity : int, optional
        Queries of one batch that it takes at most.
    tags : tuple of str
    metadata : mapping
        Anything else.

    Raises
    ------
    PortfolioError
        Names the arm and the field that is wrong.

    Examples
    --------
    >>> Arm("small", price=Price.per_million(0.1, 0.4), context_window=8192).kind
    'model'
    """

    name: str
    kind: str = "model"
    price: Price = field(default_factory=Price)
    context_window: int | None = None
    capacity: int | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise PortfolioError(f"Arm: name must be a non-empty string, got {self.name!r}")
        if not isinstance(self.kind, str) or not self.kind:
            raise PortfolioError(f"Arm {self.name!r}: kind must be a non-empty string, got {self.kind!r}")
        if not isinstance(self.price, Price):
            raise PortfolioError(f"Arm {self.name!r}: price must be a Price, got {self.price!r}")
        for name in ("context_window", "capacity"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or value < 1:
                raise PortfolioError(f"Arm {self.name!r}: {name} must be an integer >= 1 or None, got {value!r}")
            object.__setattr__(self, name, int(value))
        if isinstance(self.tags, str) or not all(isinstance(tag, str) for tag in self.tags):
            raise PortfolioError(f"Arm {self.name!r}: tags must be a sequence of strings, got {self.tags!r}")
        if not isinstance(self.metadata, Mapping):
            raise PortfolioError(f"Arm {self.name!r}: metadata must be a mapping, got {self.metadata!r}")
        object.__setattr__(self, "tags", tuple(self.tags))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[type[Arm], tuple[Any, ...]]:
        # A mapping proxy can neither be pickled nor copied.
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self), (*(values | {"metadata": dict(self.metadata)}).values(),)


@dataclass(frozen=True, repr=False)
class Portfolio:
    """Ordered arms with unique names and one currency.

    Parameters
    ----------
    arms : iterable of Arm

    Raises
    ------
    PortfolioError
        If there is no arm, a name stands twice, or currencies differ.

    Examples
    --------
    >>> portfolio = Portfolio([Arm("small"), Arm("large", price=Price(per_call=0.01))])
    >>> portfolio.names, portfolio["large"].price.per_call
    (('small', 'large'), 0.01)
    """

    arms: tuple[Arm, ...]

    def __init__(self, arms: Iterable[Arm]) -> None:
        object.__setattr__(self, "arms", tuple(arms))
        if not self.arms:
            raise PortfolioError("a portfolio needs at least one arm")
        for index, arm in enumerate(self.arms):
            if not isinstance(arm, Arm):
                raise PortfolioError(f"a portfolio holds Arm objects, got {type(arm).__name__} in place {index}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise PortfolioError(f"{len(twice)} arms are named twice, the first is {twice[0]!r}")
        currencies = sorted({arm.price.currency for arm in self.arms})
        if len(currencies) > 1:
            raise PortfolioError(f"the prices are in {len(currencies)} currencies, {currencies}; convert them to one")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(arm.name for arm in self.arms)

    def __len__(self) -> int:
        return len(self.arms)

    def __iter__(self) -> Iterator[Arm]:
        return iter(self.arms)

    def __contains__(self, arm: object) -> bool:
        """Whether an arm, or an arm of this name, is in the portfolio."""
        return arm in (self.names if isinstance(arm, str) else self.arms)

    def __repr__(self) -> str:
        return f"Portfolio({', '.join(self.names)})"

    def __getitem__(self, name: str) -> Arm:
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise PortfolioError(f"no arm {name!r}; the portfolio has {list(self.names)}")

    def cost(
        self, *, input_tokens: ArrayLike = 0, output_tokens: ArrayLike = 0, cached_tokens: ArrayLike = 0
    ) -> NDArray[np.float64]:
        """Cost of every query on every arm, shape (n, m).

        Parameters
        ----------
        input_tokens, output_tokens : arrays of shape (n,) or (n, m), or numbers
            NaN where a count is not known.
        cached_tokens : array of shape (n,) or (n, m), or number
            How many of the input tokens the prompt cache of each arm holds.

        Raises
        ------
        PortfolioError
            If a count is negative, there are more cached than input tokens, or the shapes do not fit.
        """
        price = {name: np.array([getattr(arm.price, name) for arm in self.arms]) for name in PRICE_FIELDS}
        given = {"input_tokens": input_tokens, "output_tokens": output_tokens, "cached_tokens": cached_tokens}
        counts = [self._columns(name, tokens) for name, tokens in given.items()]
        rows = {len(count) for count in counts if len(count) != 1}
        if len(rows) > 1:
            raise PortfolioError(f"input_tokens, output_tokens and cached_tokens are of {sorted(rows)} queries")
        check_cached(counts[0], counts[2])
        return np.asarray(
            price["per_call"]
            + price["per_input_token"] * counts[0]
            + price["per_output_token"] * counts[1]
            - self.cache_discount * counts[2]
        )

    @property
    def cache_discount(self) -> NDArray[np.float64]:
        """What an input token costs less on every arm if the prompt cache holds it, shape (m,)."""
        return np.array([arm.price.cache_discount for arm in self.arms])

    def _columns(self, name: str, tokens: ArrayLike) -> NDArray[np.float64]:
        count = check_tokens(name, tokens)
        if count.ndim < 2:
            return count.reshape(-1, 1)
        if count.ndim > 2 or count.shape[1] not in (1, len(self)):
            raise PortfolioError(f"{name} must have shape (n,) or (n, {len(self)}), got {count.shape}")
        return count

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> Portfolio:
        """Portfolio from a TOML file with one ``[[arm]]`` table an arm and its ``price`` as a sub-table.

        Prices may be given per million tokens as ``input_per_million``, ``output_per_million`` and
        ``cached_input_per_million``.

        Raises
        ------
        PortfolioError
            If the file cannot be read, is no TOML, or has unknown keys.
        """
        import tomllib

        try:
            with open(path, "rb") as file:
                document = tomllib.load(file)
        except FileNotFoundError:
            raise PortfolioError(f"there is no file {str(path)!r}") from None
        except OSError as error:
            raise PortfolioError(f"{str(path)!r} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PortfolioError(f"{str(path)!r} is no valid TOML: {error}") from None
        entries = document.pop("arm", None)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise PortfolioError(f"{str(path)!r} has no [[arm]] table")
        if document:
            raise PortfolioError(f"{str(path)!r}: unknown key {min(document)!r}; a portfolio has [[arm]] tables only")
        return cls(_arm(entry, f"arm {index} of {str(path)!r}") for index, entry in enumerate(entries))

    @classmethod
    def from_frame(cls, frame: Any) -> Portfolio:
        """Portfolio from a frame with one row an arm.

        Parameters
        ----------
        frame : frame of any library that narwhals supports
            Column ``name``, and optionally ``kind``, ``context_window``, ``capacity``, ``tags`` (lists), ``currency``,
            ``per_call``, ``per_input_token``, ``per_output_token``, ``per_cached_input_token``, ``input_per_million``,
            ``output_per_million``, ``cached_input_per_million``; other columns become metadata.  An empty cell leaves
            the default.

        Raises
        ------
        PortfolioError
            Names the row and what is wrong in it.
        """
        table = nw.from_native(frame, eager_only=True, pass_through=True)
        if not isinstance(table, nw.DataFrame):
            raise PortfolioError(f"expected a frame (pandas, polars, pyarrow, …), got {type(frame).__name__}")
        if "name" not in table.columns:
            raise PortfolioError(f"column 'name' is missing; the columns are {list(table.columns)}")
        cells = {column: _cells(table.get_column(column)) for column in table.columns}
        arms = []
        for index in range(len(table)):
            given = {column: values[index] for column, values in cells.items() if values[index] is not None}
            entry: dict[str, Any] = {key: given.pop(key) for key in list(given) if key in _ARM_FIELDS}
            for key in ("context_window", "capacity"):
                # A column of integers with gaps comes as floats.
                if isinstance(entry.get(key), float) and entry[key].is_integer():
                    entry[key] = int(entry[key])
            entry["price"] = {key: given.pop(key) for key in list(given) if key in _PRICE_KEYS}
            arms.append(_arm(entry | {"metadata": given}, f"row {index}"))
        return cls(arms)


_SIDES = ("input", "output", "cached_input")
_PRICE_KEYS = (*PRICE_FIELDS, "per_cached_input_token", "currency", *(f"{side}_per_million" for side in _SIDES))
_ARM_FIELDS = ("name", "kind", "context_window", "capacity", "tags")


def _cells(column: nw.Series[Any]) -> list[Any]:
    empty = column.is_null().to_list()
    return [
        None if gap or (isinstance(value, float) and math.isnan(value)) else value
        for value, gap in zip(column.to_list(), empty, strict=True)
    ]


def _arm(entry: Mapping[str, Any], where: str) -> Arm:
    values = dict(entry)
    price = values.pop("price", {})
    if not isinstance(price, Mapping):
        raise PortfolioError(f"{where}: price must be a table such as price.per_call, got {price!r}")
    unknown = sorted(set(values) - {*_ARM_FIELDS, "metadata"})
    unknown += sorted(f"price.{key}" for key in set(price) - set(_PRICE_KEYS))
    if unknown:
        raise PortfolioError(
            f"{where}: unknown key {unknown[0]!r}; allowed are {[*_ARM_FIELDS, 'metadata']} and in price {list(_PRICE_KEYS)}"
        )
    if "name" not in values:
        raise PortfolioError(f"{where}: no name")
    try:
        rates = dict(price)
        for side in _SIDES:
            quoted = rates.pop(f"{side}_per_million", None)
            if quoted is not None:
                if f"per_{side}_token" in rates:
                    raise PortfolioError(f"give {side}_per_million or per_{side}_token, not both")
                rates[f"per_{side}_token"] = check_price(f"{side}_per_million", quoted) / 1e6
        return Arm(price=Price(**rates), **values)
    except PortfolioError as error:
        raise PortfolioError(f"{where}: {error}") from None
