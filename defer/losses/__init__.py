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
from defer.losses.contrastive import contrast_weights, dual_contrastive, margin_contrastive
from defer.losses.distillation import DIVERGENCES, enhance_labels, forward_kl, reverse_kl, silver_labels, soft_labels
from defer.losses.margin import (
    MARGINS,
    exponential_margin,
    hinge_margin,
    logistic_margin,
    sigmoid_margin,
    squared_hinge_margin,
)
from defer.losses.post_hoc import post_hoc_partial, post_hoc_regression
from defer.losses.preference import bradley_terry_loss, preference_loss, similarity_weights
from defer.losses.quality_gap import MarginChoice, best_margin, gap_probability, label_spread
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
    "DIVERGENCES",
    "MARGINS",
    "SURROGATES",
    "LossValue",
    "MarginChoice",
    "Readout",
    "Surrogate",
    "asymmetric_softmax_deferral",
    "asymmetric_softmax_readout",
    "best_margin",
    "bradley_terry_loss",
    "constrained",
    "contrast_weights",
    "cost_sensitive_deferral",
    "cross_entropy",
    "deferral_cost",
    "dual_contrastive",
    "enhance_labels",
    "exponential_margin",
    "forward_kl",
    "gap_probability",
    "generalized_cross_entropy",
    "hinge_margin",
    "label_spread",
    "logistic_margin",
    "margin_contrastive",
    "mean_absolute_error",
    "ova_deferral",
    "ova_readout",
    "post_hoc_partial",
    "post_hoc_regression",
    "predictor_rejector",
    "preference_loss",
    "realizable_deferral",
    "reverse_kl",
    "rl2d_deferral",
    "sigmoid_margin",
    "silver_labels",
    "similarity_weights",
    "soft_labels",
    "softmax_deferral",
    "softmax_readout",
    "squared_hinge_margin",
    "sum_exponential",
    "two_stage",
]
