"""What a turn costs by the tokens of its own prompt, where a router predicts the cost of the prompts that it was fitted on.

Of a predicted cost, the part for input tokens is replaced by this prompt's; what is left of it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import RouterInputError

__all__ = ["TokenPrices"]

Floats = NDArray[np.float64]
ByArm = ArrayLike | Mapping[Any, float] | None


@dataclass(frozen=True, eq=False)
class TokenPrices:
    """Prices of input tokens, and the tokens that predicted costs count.

    Attributes
    ----------
    price : array of shape (m,)
        US dollars of an input token that no cache holds, or the least that it can be where that is not known.
    discount : array of shape (m,)
        US dollars that it costs less if the cache of the arm holds it.
    mean_cost : array of shape (m,)
        Of the logged queries; a router that predicts it knows nothing of the prompt.
    mean_tokens : array of shape (m,)
        Of the prompts of the logged queries; NaN = not known.
    """

    price: Floats
    discount: Floats
    mean_cost: Floats
    mean_tokens: Floats

    @classmethod
    def read(
        cls, arms: list[Any], *, price: ByArm, discount: ByArm, mean_cost: Floats, mean_tokens: Floats
    ) -> TokenPrices:
        """Read prices by arm.

        Parameters
        ----------
        arms : list of m names
        price, discount : array of shape (m,) or mapping from arm to number, or None
            As for `SessionRouter`, ``token_price`` and ``token_discount``.
        mean_cost, mean_tokens
            As for the class.

        Raises
        ------
        RouterInputError
            If one of them is something else, or the discount is above the price.

        Examples
        --------
        >>> TokenPrices.read(["a"], price=None, discount={"a": 2e-6}, mean_cost=np.zeros(1), mean_tokens=np.zeros(1)).price
        array([2.e-06])
        """
        less = _by_arm("token_discount", discount, arms)
        # Nobody pays for being sent a token: its price is at least what the cache takes off.
        least = np.maximum(less, 0.0)
        if price is None:
            return cls(least, less, mean_cost, mean_tokens)
        full = _by_arm("token_price", price, arms, lacking=least)
        low = np.flatnonzero(full < least * (1 - 1e-12))
        if len(low):
            arm = low[0]
            raise RouterInputError(
                f"SessionRouter: token_price must be at least token_discount and at least 0 for every arm, and for {arms[arm]!r} "
                f"it is {full[arm]:g} with a discount of {less[arm]:g}; the price is that of a token that no cache holds"
            )
        return cls(full, less, mean_cost, mean_tokens)

    def fresh_cost(self, predicted: Floats, tokens: Floats) -> Floats:
        """Cost of prompts of so many tokens that no cache holds, shape (n, m).

        Parameters
        ----------
        predicted : array of shape (n, m)
            The mean cost of the log counts prompts of its mean length; any other is taken to count this one's.
        tokens : array of shape (n,)

        Examples
        --------
        >>> prices = TokenPrices(np.array([3e-6]), np.zeros(1), np.array([0.004]), np.array([1000.0]))
        >>> prices.fresh_cost(np.array([[0.004], [0.05]]), np.array([10_000.0, 10_000.0])).round(6).tolist()
        [[0.031], [0.05]]
        """
        given = tokens[:, None]
        # A blend of means is one up to rounding.
        is_mean = np.isclose(predicted, self.mean_cost, rtol=1e-9, atol=0.0) & np.isfinite(self.mean_tokens)
        longer = np.where(is_mean, given - np.nan_to_num(self.mean_tokens), 0.0)
        repriced = np.maximum(predicted + self.price * longer, self.price * given)
        return np.where(self.price > 0, repriced, predicted)

    def with_arm(self, *, price: float, discount: float, mean_cost: float) -> TokenPrices:
        """The same with one arm more, in the last place, of whose logged prompts nothing is known.

        Parameters
        ----------
        price, discount, mean_cost : float
        """
        return TokenPrices(
            np.append(self.price, max(price, discount, 0.0)), np.append(self.discount, discount),
            np.append(self.mean_cost, mean_cost), np.append(self.mean_tokens, np.nan),
        )  # fmt: skip


def _by_arm(name: str, given: ByArm, arms: list[Any], lacking: Floats | None = None) -> Floats:
    """One number an arm; 0, or what is told, for arms that a mapping does not name."""
    other = np.zeros(len(arms)) if lacking is None else lacking
    if given is None:
        return other
    values: Any = given
    if isinstance(given, Mapping):
        strange = [arm for arm in given if arm not in arms]
        if strange:
            raise RouterInputError(f"SessionRouter: {name} names {strange[0]!r}, which is no arm of {arms}")
        values = [given.get(arm, least) for arm, least in zip(arms, other.tolist(), strict=True)]
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.empty(0)
    if table.shape != (len(arms),) or not np.isfinite(table).all():
        raise RouterInputError(f"SessionRouter: {name} must be {len(arms)} finite numbers, one an arm, got {given!r}")
    return table
