"""Surrogate losses and regularisers: arrays in, values and gradients out.

Every loss has one signature, ``loss(scores, target_or_cost, *, weight=None, ...)``, takes NumPy arrays or torch tensors, and
returns a `LossValue` with the loss of every sample and its analytic gradient.
"""

if __name__ != "defer.losses":
    raise ImportError("this folder is a door to defer.losses: write 'import defer.losses'")

from defer.losses.comp_sum import (
    COMP_SUMS,
    constrained,
    cross_entropy,
    generalized_cross_entropy,
    mean_absolute_error,
    sum_exponential,
)
from defer.losses.margin import (
    MARGINS,
    exponential_margin,
    hinge_margin,
    logistic_margin,
    sigmoid_margin,
    squared_hinge_margin,
)
from defer.losses.post_hoc import post_hoc_partial, post_hoc_regression
from defer.losses.readout import Readout, asymmetric_softmax_readout, ova_readout, softmax_readout
from defer.losses.single_stage import (
    asymmetric_softmax_deferral,
    cost_sensitive_deferral,
    deferral_cost,
    ova_deferral,
    realizable_deferral,
    rl2d_deferral,
    softmax_deferral,
)
from defer.losses.surrogates import SURROGATES, Surrogate
from defer.losses.two_stage import predictor_rejector, two_stage
from defer.losses.value import LossValue

__all__ = [
    "COMP_SUMS",
    "MARGINS",
    "SURROGATES",
    "LossValue",
    "Readout",
    "Surrogate",
    "asymmetric_softmax_deferral",
    "asymmetric_softmax_readout",
    "constrained",
    "cost_sensitive_deferral",
    "cross_entropy",
    "deferral_cost",
    "exponential_margin",
    "generalized_cross_entropy",
    "hinge_margin",
    "logistic_margin",
    "mean_absolute_error",
    "ova_deferral",
    "ova_readout",
    "post_hoc_partial",
    "post_hoc_regression",
    "predictor_rejector",
    "realizable_deferral",
    "rl2d_deferral",
    "sigmoid_margin",
    "softmax_deferral",
    "softmax_readout",
    "squared_hinge_margin",
    "sum_exponential",
    "two_stage",
]
