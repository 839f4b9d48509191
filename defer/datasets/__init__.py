"""Data that ship with the library, and deferral problems that are drawn from a known law."""

from defer.datasets.deferral import (
    make_adversarial_experts,
    make_correlated_experts,
    make_linear_deferral,
    make_noisy_experts,
    make_specialist_experts,
)
from defer.datasets.embedded import load_tiny
from defer.datasets.problem import DeferralProblem
from defer.datasets.witnesses import confidence_trap, realizable_witness, routing_witness

__all__ = [
    "DeferralProblem",
    "confidence_trap",
    "load_tiny",
    "make_adversarial_experts",
    "make_correlated_experts",
    "make_linear_deferral",
    "make_noisy_experts",
    "make_specialist_experts",
    "realizable_witness",
    "routing_witness",
]
