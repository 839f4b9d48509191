"""How experts are called who were given no names: expert j is arm j of the system, whose arm 0 is its own prediction."""

from __future__ import annotations

__all__ = ["expert_names"]


def expert_names(n_experts: int) -> list[str]:
    """Names of experts without names: "expert" for one, else "expert 1", "expert 2", and so on.

    Parameters
    ----------
    n_experts : int

    Examples
    --------
    >>> expert_names(1), expert_names(2)
    (['expert'], ['expert 1', 'expert 2'])
    """
    return ["expert"] if n_experts == 1 else [f"expert {index + 1}" for index in range(n_experts)]
