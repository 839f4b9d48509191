"""What can be chosen: arms, their prices, and the ordered portfolio that they form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import PortfolioError

__all__ = ["Arm", "Portfolio", "Price"]

_PRICE_FIELDS = ("per_call", "per_input_token", "per_output_token")


@dataclass(frozen=True)
class Price:
    """What one query costs on an arm.

    Parameters
    ----------
    per_call, per_input_token, per_output_token : float, default=0.0
        In units of `currency`, >= 0.
    currency : str, default="USD"

    Examples
    --------
    >>> Price.per_million(0.25, 1.25).cost(input_tokens=1000, output_tokens=200)
    0.0005
    """

    per_call: float = 0.0
    per_input_token: float = 0.0
    per_output_token: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in _PRICE_FIELDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise PortfolioError(f"Price: {name} must be a finite number >= 0, got {value!r}")
            object.__setattr__(self, name, float(value))

    @classmethod
    def per_million(cls, input_tokens: float, output_tokens: float, *, currency: str = "USD") -> Price:
        """Price from the usual quotation per million tokens."""
        return cls(0.0, input_tokens / 1e6, output_tokens / 1e6, currency)

    def cost(self, *, input_tokens: ArrayLike = 0, output_tokens: ArrayLike = 0) -> Any:
        """Cost of calls with these token counts; a float, or an array of the shape of the counts."""
        total = (
            self.per_call
            + self.per_input_token * np.asarray(input_tokens)
            + self.per_output_token * np.asarray(output_tokens)
        )
        return float(total) if np.ndim(total) == 0 else total


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
        for name in ("context_window", "capacity"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise PortfolioError(f"Arm {self.name!r}: {name} must be an integer >= 1 or None, got {value!r}")
        object.__setattr__(self, "tags", tuple(self.tags))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))


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

    def __init__(self, arms: Any) -> None:
        self.arms: tuple[Arm, ...] = tuple(arms)
        if not self.arms:
            raise PortfolioError("a portfolio needs at least one arm")
        for arm in self.arms:
            if not isinstance(arm, Arm):
                raise PortfolioError(f"a portfolio holds Arm objects, got {type(arm).__name__}")
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Portfolio) and self.arms == other.arms

    def __hash__(self) -> int:
        return hash(self.arms)

    def __repr__(self) -> str:
        return f"Portfolio({', '.join(self.names)})"

    def __getitem__(self, name: str) -> Arm:
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise PortfolioError(f"no arm {name!r}; the portfolio has {list(self.names)}")

    def cost(self, *, input_tokens: ArrayLike = 0, output_tokens: ArrayLike = 0) -> NDArray[np.float64]:
        """Cost of every query on every arm, shape (n, m).

        Parameters
        ----------
        input_tokens, output_tokens : arrays of shape (n,) or (n, m), or numbers
        """

        def columns(tokens: ArrayLike) -> NDArray[np.float64]:
            values = np.asarray(tokens, dtype=np.float64)
            return values[:, None] if values.ndim == 1 else np.atleast_2d(values)

        price = {name: np.array([getattr(arm.price, name) for arm in self.arms]) for name in _PRICE_FIELDS}
        return np.asarray(
            price["per_call"]
            + price["per_input_token"] * columns(input_tokens)
            + price["per_output_token"] * columns(output_tokens)
        )

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> Portfolio:
        """Portfolio from a TOML file with one ``[[arm]]`` table an arm and its ``price`` as a sub-table.

        Prices may be given per million tokens as ``input_per_million`` and ``output_per_million``.

        Raises
        ------
        PortfolioError
            If the file is missing, is no TOML, or has unknown keys.
        """
        import tomllib

        try:
            with open(path, "rb") as file:
                document = tomllib.load(file)
        except FileNotFoundError:
            raise PortfolioError(f"there is no file {str(path)!r}") from None
        except tomllib.TOMLDecodeError as error:
            raise PortfolioError(f"{str(path)!r} is no valid TOML: {error}") from None
        entries = document.get("arm")
        if not isinstance(entries, list):
            raise PortfolioError(f"{str(path)!r} has no [[arm]] table")
        return cls(_arm(entry, f"arm {index} of {str(path)!r}") for index, entry in enumerate(entries))

    @classmethod
    def from_frame(cls, frame: Any) -> Portfolio:
        """Portfolio from a frame with a row an arm: ``name``, and optionally ``kind``, ``context_window``, ``capacity``,
        ``currency``, ``per_call``, ``per_input_token``, ``per_output_token``, ``input_per_million``, ``output_per_million``;
        other columns become metadata.
        """
        table = nw.from_native(frame, eager_only=True)
        if "name" not in table.columns:
            raise PortfolioError(f"column 'name' is missing; the columns are {list(table.columns)}")
        price_keys = {*_PRICE_FIELDS, "currency", "input_per_million", "output_per_million"}
        known = {"name", "kind", "context_window", "capacity", *price_keys}
        arms = []
        for index, row in enumerate(table.iter_rows(named=True)):
            given = {key: value for key, value in row.items() if value is not None and value == value}
            entry: dict[str, Any] = {key: given[key] for key in given if key in known - price_keys}
            for key in ("context_window", "capacity"):
                if key in entry and float(entry[key]).is_integer():
                    entry[key] = int(entry[key])
            entry["price"] = {key: given[key] for key in given if key in price_keys}
            entry["metadata"] = {key: given[key] for key in given if key not in known}
            arms.append(_arm(entry, f"row {index}"))
        return cls(arms)


def _arm(entry: Mapping[str, Any], where: str) -> Arm:
    values = dict(entry)
    price = dict(values.pop("price", {}))
    for side in ("input", "output"):
        quoted = price.pop(f"{side}_per_million", None)
        if quoted is not None:
            if f"per_{side}_token" in price:
                raise PortfolioError(f"{where}: give {side}_per_million or per_{side}_token, not both")
            price[f"per_{side}_token"] = quoted / 1e6
    unknown = sorted(set(values) - {"name", "kind", "context_window", "capacity", "tags", "metadata"})
    unknown += sorted(f"price.{key}" for key in set(price) - {*_PRICE_FIELDS, "currency"})
    if unknown:
        raise PortfolioError(f"{where}: unknown key {unknown[0]!r}")
    if "name" not in values:
        raise PortfolioError(f"{where}: no name")
    return Arm(price=Price(**price), **values)
