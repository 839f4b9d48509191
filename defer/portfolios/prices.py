"""What a call of an arm costs: prices per call and per token, also of tokens that a prompt cache holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import PortfolioError

__all__ = ["PRICE_FIELDS", "Price", "check_cached", "check_price", "check_tokens"]

PRICE_FIELDS = ("per_call", "per_input_token", "per_output_token")
"""Fields of a `Price` that are numbers and always there."""

_CACHED = "per_cached_input_token"


@dataclass(frozen=True)
class Price:
    """What one query costs on an arm.

    Parameters
    ----------
    per_call, per_input_token, per_output_token : float, default=0.0
        In units of `currency`, >= 0.
    currency : str, default="USD"
    per_cached_input_token : float, optional
        Of the input tokens that the provider's prompt cache holds.  None = the same as of the others.

    Raises
    ------
    PortfolioError
        If a number is negative or not finite, or the currency is no text.

    Examples
    --------
    >>> Price.per_million(0.25, 1.25).cost(input_tokens=1000, output_tokens=200)
    0.0005
    """

    per_call: float = 0.0
    per_input_token: float = 0.0
    per_output_token: float = 0.0
    currency: str = "USD"
    per_cached_input_token: float | None = None

    def __post_init__(self) -> None:
        for name in (*PRICE_FIELDS, _CACHED):
            if name != _CACHED or self.per_cached_input_token is not None:
                object.__setattr__(self, name, check_price(name, getattr(self, name)))
        if not isinstance(self.currency, str) or not self.currency:
            raise PortfolioError(f"Price: currency must be a non-empty string, got {self.currency!r}")

    @classmethod
    def per_million(
        cls,
        input_tokens: float,
        output_tokens: float,
        *,
        cached_input_tokens: float | None = None,
        currency: str = "USD",
    ) -> Price:
        """Price from the usual quotation per million tokens."""
        rates = [check_price("input_tokens", input_tokens), check_price("output_tokens", output_tokens)]
        if cached_input_tokens is not None:
            rates.append(check_price("cached_input_tokens", cached_input_tokens))
        per_token = [rate / 1e6 for rate in rates]
        return cls(0.0, per_token[0], per_token[1], currency, *per_token[2:])

    @property
    def cache_discount(self) -> float:
        """What an input token costs less if the prompt cache holds it; below 0 if it costs more."""
        return 0.0 if self.per_cached_input_token is None else self.per_input_token - self.per_cached_input_token

    def cost(self, *, input_tokens: ArrayLike = 0, output_tokens: ArrayLike = 0, cached_tokens: ArrayLike = 0) -> Any:
        """Cost of calls with these token counts; a float, or an array of the shape of the counts.

        A count that is not known is NaN, and so is its cost.

        Parameters
        ----------
        input_tokens, output_tokens : array or number
        cached_tokens : array or number
            How many of the input tokens the prompt cache holds.

        Raises
        ------
        PortfolioError
            If a count is negative, or there are more cached than input tokens.
        """
        tokens, cached = check_tokens("input_tokens", input_tokens), check_tokens("cached_tokens", cached_tokens)
        check_cached(tokens, cached)
        total = (
            self.per_call
            + self.per_input_token * tokens
            + self.per_output_token * check_tokens("output_tokens", output_tokens)
            - self.cache_discount * cached
        )
        return float(total) if np.ndim(total) == 0 else total


def check_price(name: str, value: object) -> float:
    """A price as a float.

    Raises
    ------
    PortfolioError
        If it is no finite number >= 0.

    Examples
    --------
    >>> check_price("per_call", 1)
    1.0
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise PortfolioError(f"Price: {name} must be a finite number >= 0, got {value!r}")
    return float(value)


def check_tokens(name: str, tokens: ArrayLike) -> NDArray[np.float64]:
    """Counts of tokens as an array; NaN = not known.

    Raises
    ------
    PortfolioError
        If one is negative.

    Examples
    --------
    >>> check_tokens("input_tokens", [3, 5])
    array([3., 5.])
    """
    count = np.asarray(tokens, dtype=np.float64)
    wrong = np.flatnonzero(count < 0)
    if len(wrong):
        raise PortfolioError(
            f"{name} has {len(wrong)} of {count.size} values below 0, the first is {count.ravel()[wrong[0]]:g}"
        )
    return count


def check_cached(tokens: NDArray[np.float64], cached: NDArray[np.float64]) -> None:
    """Refuse more cached than input tokens.

    Raises
    ------
    PortfolioError
        Names the count and the first offender.

    Examples
    --------
    >>> check_cached(np.array([10.0]), np.array([8.0]))
    """
    over = cached > tokens
    if np.any(over):
        some, most = (np.broadcast_to(count, np.shape(over))[over][0] for count in (cached, tokens))
        what = (
            f"{np.count_nonzero(over)} of {np.size(over)} values above input_tokens, the first is {some:g} of {most:g}"
        )
        raise PortfolioError(f"cached_tokens has {what}")
